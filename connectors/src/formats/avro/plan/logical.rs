//! Values of logical types as text: decimals, times, durations and UUIDs.

/// `-12.50`; `None` beyond 128 bits and 38 digits behind the point.
pub(super) fn decimal_text(bytes: &[u8], scale: usize) -> Option<String> {
    let fill = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut number = [fill; 16];
    let skipped = bytes.len().saturating_sub(16);
    let (head, tail) = bytes.split_at(skipped);
    if head.iter().any(|byte| *byte != fill) || scale > 38 {
        return None;
    }
    number[16 - tail.len()..].copy_from_slice(tail);
    let number = i128::from_be_bytes(number);
    if (number < 0) != (fill == 0xff) {
        return None;
    }
    let digits = format!("{:0width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if number < 0 { "-" } else { "" };
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// `14:50:25.120000`.
pub(super) fn time_text(value: i64, per_second: i64) -> String {
    let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    let digits = per_second.ilog10() as usize;
    format!("{:02}:{:02}:{:02}.{fraction:0digits$}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `P1M2DT3.004S`.
pub(super) fn duration_text(bytes: [u8; 12]) -> String {
    let [months, days, millis] =
        [0, 4, 8].map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000)
}

/// `f81d4fae-7dec-11d0-a765-00a0c91e6bf6`; other lengths than 16 as plain digits.
pub(super) fn uuid_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if bytes.len() == 16 && matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

use std::io::Write;

use proptest::{collection::vec, option, prelude::*};

use super::*;

/// A record as it is to come back.
pub(in crate::kafka) type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn sized(into: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::write(into, -1),
        Some(bytes) => {
            varint::write(into, bytes.len() as i64);
            into.extend(bytes);
        }
    }
}

pub(in crate::kafka) fn body(records: &[Plain]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, (delta, key, value, headers)) in records.iter().enumerate() {
        let mut record = vec![0];
        varint::write(&mut record, *delta);
        varint::write(&mut record, index as i64);
        sized(&mut record, key.as_deref());
        sized(&mut record, value.as_deref());
        varint::write(&mut record, headers.len() as i64);
        for (name, value) in headers {
            sized(&mut record, Some(name.as_bytes()));
            sized(&mut record, value.as_deref());
        }
        varint::write(&mut body, record.len() as i64);
        body.extend(record);
    }
    body
}

/// A batch at `base_offset` with these attributes around a packed body.
pub(in crate::kafka) fn batch(
    base_offset: i64,
    attributes: i16,
    count: usize,
    producer_id: i64,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(base_offset.to_be_bytes());
    bytes.extend(((HEADER_BYTES - LENGTH_END + body.len()) as i32).to_be_bytes());
    bytes.extend(3i32.to_be_bytes()); // leader epoch
    bytes.push(2);
    bytes.extend([0; 4]); // CRC
    bytes.extend(attributes.to_be_bytes());
    bytes.extend((count.max(1) as i32 - 1).to_be_bytes());
    bytes.extend(1_000i64.to_be_bytes()); // base timestamp
    bytes.extend(9_000i64.to_be_bytes()); // max timestamp
    bytes.extend(producer_id.to_be_bytes());
    bytes.extend([0; 6]); // producer epoch, base sequence
    bytes.extend((count as i32).to_be_bytes());
    bytes.extend(body);
    let crc = crc32c::crc32c(&bytes[CRC_END..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn read(bytes: &[u8], unpacker: &mut Unpacker) -> Result<Vec<Plain>, BadBatch> {
    let mut records = Vec::new();
    for batch in batches(bytes) {
        for record in unpacker.records(&batch?)? {
            let record = record?;
            let mut headers = Vec::new();
            record.headers(&mut headers)?;
            let headers = headers.iter().map(|h| (h.name.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
            let plain = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            records.push((record.timestamp_ms, plain(record.key), plain(record.value), headers));
        }
    }
    Ok(records)
}

fn pack(codec: i16, body: &[u8]) -> Vec<u8> {
    match codec {
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        2 => snap::raw::Encoder::new().compress_vec(body).unwrap(),
        // A frame of independent blocks of 64 KiB, the second kind stored.
        3 => {
            let mut packed = [&LZ4_MAGIC[..], &[0x60, 0x40, 0x82]].concat();
            for (index, block) in body.chunks(64 << 10).enumerate() {
                let squeezed = lz4_flex::block::compress(block);
                let (mark, block) = if index % 2 == 0 { (0, &squeezed[..]) } else { (1 << 31, block) };
                packed.extend((block.len() as u32 | mark).to_le_bytes());
                packed.extend(block);
            }
            packed.extend([0; 4]);
            packed
        }
        4 => zstd::encode_all(body, 1).unwrap(),
        _ => body.to_vec(),
    }
}

const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

fn plain_records() -> impl Strategy<Value = Vec<Plain>> {
    let bytes = || option::of(vec(any::<u8>(), 0..300));
    let headers = vec(("[a-z]{0,5}", option::of(vec(any::<u8>(), 0..9))), 0..3);
    vec((-5i64..5_000, bytes(), bytes(), headers), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: prop::test_runner::RngSeed::Fixed(4), ..ProptestConfig::with_cases(64) })]

    #[test]
    fn records_come_back_from_every_codec(records in plain_records(), codec in 0i16..=4, log_append: bool) {
        let attributes = codec | if log_append { 0x08 } else { 0 };
        let bytes = batch(77, attributes, records.len(), -1, &pack(codec, &body(&records)));
        let mut expected = records;
        expected.iter_mut().for_each(|record| record.0 = if log_append { 9_000 } else { 1_000 + record.0 });
        prop_assert_eq!(read(&[&bytes[..], &bytes[..50]].concat(), &mut Unpacker::default()), Ok(expected));
    }

    #[test]
    fn hostile_bytes_are_refused(mut bytes in vec(any::<u8>(), 0..400), records in plain_records(), codec in 0i16..=4, at: prop::sample::Index, right_crc: bool) {
        let whole = batch(0, codec, records.len(), -1, &pack(codec, &body(&records)));
        let at = at.index(whole.len());
        let mut mixed = whole;
        mixed.splice(at..at, bytes.drain(..));
        if right_crc && mixed.len() > HEADER_BYTES {
            let length = (mixed.len() - LENGTH_END) as i32;
            mixed[8..12].copy_from_slice(&length.to_be_bytes());
            let crc = crc32c::crc32c(&mixed[CRC_END..]);
            mixed[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        let _ = read(&mixed, &mut Unpacker::with_limit(1 << 20)); // a result or a refusal; never a panic
    }
}

#[test]
fn blocks_that_refer_to_the_block_before_are_unpacked() {
    let text: Vec<u8> = (0..30_000u32).flat_map(|i| (i % 977).to_le_bytes()).collect();
    let (first, second) = text.split_at(64 << 10);
    let mut packed = [&LZ4_MAGIC[..], &[0x40, 0x40, 0x82]].concat();
    for block in [lz4_flex::block::compress(first), lz4_flex::block::compress_with_dict(second, first)] {
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    packed.extend([0; 4]);
    let mut record = vec![0, 0, 0];
    sized(&mut record, None);
    sized(&mut record, Some(&text));
    record.push(0);
    let mut whole = Vec::new();
    varint::write(&mut whole, record.len() as i64);
    let head = [whole, record].concat();
    // The record's head comes before the text: pack it as a stored block in front.
    let (front, _) = head.split_at(head.len() - text.len() - 1);
    let mut frame = packed[..7].to_vec();
    frame.extend((front.len() as u32 | 1 << 31).to_le_bytes());
    frame.extend(front);
    frame.extend(&packed[7..packed.len() - 4]);
    frame.extend((1u32 | 1 << 31).to_le_bytes());
    frame.push(0);
    frame.extend([0; 4]);
    let records = read(&batch(0, 3, 1, -1, &frame), &mut Unpacker::default()).unwrap();
    assert!(records[0].2.as_deref() == Some(&text[..]));
}

#[test]
fn a_snappy_stream_of_java_is_unpacked() {
    let records: Vec<Plain> = vec![(0, None, Some(vec![b'x'; 70_000]), vec![])];
    let mut packed = [XERIAL_HEAD, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
    for block in body(&records).chunks(32 << 10) {
        let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
        packed.extend((block.len() as u32).to_be_bytes());
        packed.extend(block);
    }
    let read = read(&batch(0, 2, 1, -1, &packed), &mut Unpacker::default()).unwrap();
    assert!(read[0].2.as_ref().is_some_and(|value| value.len() == 70_000));
}

const XERIAL_HEAD: &[u8] = b"\x82SNAPPY\0";

#[test]
fn what_unpacks_beyond_the_limit_is_refused() {
    let zeros = vec![0; 4 << 20];
    for codec in 1..=4 {
        let bytes = batch(0, codec, 1, -1, &pack(codec, &zeros));
        let refused = read(&bytes, &mut Unpacker::with_limit(1 << 20));
        assert_eq!(refused, Err(BadBatch::TooLarge { limit: 1 << 20 }), "codec {codec}");
    }
}

#[test]
fn a_flipped_bit_is_found() {
    let mut bytes = batch(5, 0, 1, -1, &body(&[(0, None, Some(b"payload".to_vec()), vec![])]));
    *bytes.last_mut().unwrap() ^= 1;
    let refused = read(&bytes, &mut Unpacker::default());
    assert!(matches!(refused, Err(BadBatch::Checksum { base_offset: 5, .. })), "{refused:?}");
}

/// A message of an old format.
pub(in crate::kafka) fn old_message(
    magic: i8,
    offset: i64,
    attributes: u8,
    timestamp_ms: i64,
    value: &[u8],
) -> Vec<u8> {
    let mut message = vec![magic as u8, attributes];
    if magic > 0 {
        message.extend(timestamp_ms.to_be_bytes());
    }
    message.extend(1i32.to_be_bytes());
    message.push(b'k');
    message.extend((value.len() as i32).to_be_bytes());
    message.extend(value);
    let mut crc = flate2::Crc::new();
    crc.update(&message);
    let size = (message.len() + 4) as i32;
    [&offset.to_be_bytes()[..], &size.to_be_bytes(), &crc.sum().to_be_bytes(), &message].concat()
}

#[test]
fn old_messages_come_back_from_every_codec() {
    const LOG_APPEND: u8 = 0x08;
    let walked = |bytes: &[u8]| {
        let (mut unpacker, mut seen) = (Unpacker::default(), Vec::new());
        for batch in batches(bytes) {
            let batch = batch?;
            for record in unpacker.records(&batch)? {
                let WalkedRecord { offset, timestamp_ms, key, value, .. } = record?;
                assert_eq!(key, Some(&b"k"[..]));
                seen.push((offset, timestamp_ms, value.unwrap().to_vec(), batch.timestamp_kind()));
            }
            assert_eq!(seen.last().map(|(offset, ..)| offset + 1), Some(batch.next_offset));
        }
        Ok::<_, BadBatch>(seen)
    };
    for magic in [0i8, 1] {
        let at = |ms: i64| if magic == 0 { -1 } else { ms };
        for codec in 0..=3_u8 {
            let value = |n: i64| format!("value {n}").into_bytes();
            // Offsets 40 to 42 in one message that holds three, then 43 alone.
            let inner = |n: i64| old_message(magic, if magic == 0 { n } else { n - 40 }, 0, n * 10, &value(n));
            let packed = pack(i16::from(codec), &(40..43).flat_map(inner).collect::<Vec<_>>());
            let first = match codec {
                0 => (40..43).flat_map(|n| old_message(magic, n, 0, n * 10, &value(n))).collect(),
                _ => old_message(magic, 42, codec, 420, &packed),
            };
            let bytes = [first, old_message(magic, 43, 0, 430, &value(43))].concat();
            let expected: Vec<_> = (40..44).map(|n| (n, at(n * 10), value(n), TimestampKind::Create)).collect();
            assert_eq!(walked(&bytes), Ok(expected), "format {magic}, codec {codec}");
            for cut in 0..bytes.len() {
                let _ = walked(&bytes[..cut]); // a result or a refusal; never a panic
            }
        }
    }
    // The broker's stamp of the whole is that of all in it.
    let inner: Vec<u8> = (0..2).flat_map(|n| old_message(1, n, 0, n, b"x")).collect();
    let stamped = old_message(1, 8, 1 | LOG_APPEND, 5_000, &pack(1, &inner));
    let x = |offset| (offset, 5_000, b"x".to_vec(), TimestampKind::LogAppend);
    assert_eq!(walked(&stamped), Ok(vec![x(7), x(8)]));
    let mut flipped = old_message(0, 1, 0, 0, b"payload");
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(walked(&flipped), Err(BadBatch::Checksum { base_offset: 1, .. })));
}

#[test]
fn formats_to_come_are_named() {
    let mut bytes = batch(0, 0, 0, -1, &[]);
    bytes[16] = 3;
    assert_eq!(read(&bytes, &mut Unpacker::default()), Err(BadBatch::UnknownFormat { magic: 3 }));
}

#[test]
fn records_of_aborted_transactions_are_left_out_and_those_behind_are_not() {
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x30;
    let one = |offset, attributes, producer| batch(offset, attributes, 1, producer, &body(&[(0, None, None, vec![])]));
    let bytes = [
        one(0, TRANSACTIONAL, 7), // aborted
        one(1, TRANSACTIONAL, 8), // of another producer, committed
        one(2, 0, -1),            // without a transaction
        one(3, CONTROL, 7),       // the abort
        one(4, TRANSACTIONAL, 7), // the next one, committed
        one(5, CONTROL, 7),
        one(6, CONTROL, 8),
        one(7, TRANSACTIONAL, 8), // aborted
        one(8, CONTROL, 8),
    ]
    .concat();
    let mut aborted = AbortedTransactions::new([(8, 7), (7, 0)].into_iter());
    let kept: Vec<_> =
        batches(&bytes).map(Result::unwrap).filter(|b| !aborted.leaves_out(b)).map(|b| b.base_offset).collect();
    assert_eq!(kept, [1, 2, 4]);
}

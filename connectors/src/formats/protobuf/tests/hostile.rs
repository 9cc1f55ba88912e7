use super::*;

#[test]
fn a_message_nested_a_thousand_deep_is_passed_over_or_refused() {
    let tree = message("syntax = \"proto3\"; message M { int32 n = 1; M m = 2; }", None);
    let declared = tree.columns().unwrap();
    assert_eq!(declared.left_out[0].reason, "its message `M` contains itself");
    let mut decoder = decoder(&tree);
    let mut bytes = b"\x08\x05".to_vec();
    for _ in 0..1_000 {
        let mut outer = b"\x08\x05\x12".to_vec();
        prost::encode_length_delimiter(bytes.len(), &mut outer).unwrap();
        outer.extend(&bytes);
        bytes = outer;
    }
    assert_eq!(decoder.push(&bytes), Ok(1), "what no column wants is one length");
    let groups = [b"\x1b".repeat(1_000), b"\x1c".repeat(1_000)].concat();
    assert!(decoder.push(&groups).unwrap_err().message.contains("at most 100 groups"));
    assert_eq!(decoder.push(&[b"\x1b".repeat(50), b"\x1c".repeat(50)].concat()), Ok(1));
    assert_eq!(rows(&mut decoder), [json!({"n": 5}), json!({"n": 0})]);
}

#[test]
fn what_lies_about_itself_is_refused() {
    let plain = message("syntax = \"proto3\"; message M { string s = 1; repeated fixed64 l = 2; }", None);
    let mut decoder = decoder(&plain);
    for bytes in [
        &b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"[..], // a length of 2^63 - 1
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a varint of 11 bytes
        b"\x0a\x02a",
        b"\x0a\x01\xff",
        b"\x08\x01",        // a varint where text is due
        b"\x12\x07aaaaaaa", // seven bytes of numbers of eight
        b"\x00\x01",        // field 0
        b"\x0f",            // wire type 7
        b"\x0c",            // the end of no group
        b"\x1b\x24",        // a group that another one ends
        b"\x1b",
        b"\xff\xff\xff\xff\xff\x01\x01", // a field number above 2^29
    ] {
        assert_eq!(decoder.push(bytes).unwrap_err().class, BadClass::Malformed, "{bytes:?}");
    }
    assert_eq!(rows(&mut decoder), Vec::<Json>::new());
}

#[test]
fn messages_that_contain_each_other_twice_do_not_explode() {
    let mut text = "syntax = \"proto3\"; message M0 { int32 n = 1; }".to_owned();
    for n in 1..60 {
        text.push_str(&format!(" message M{n} {{ M{m} a = 1; M{m} b = 2; }}", m = n - 1));
    }
    let error = message(&text, Some("M59")).columns().err().unwrap();
    assert_eq!(error, "message `M59` makes more than 10000 columns");
}

#[test]
fn wide_messages_are_walked() {
    let fields: String = (1..=2_000).map(|n| format!("int32 f{n} = {n};")).collect();
    let wide = message(&format!("syntax = \"proto3\"; message M {{ {fields} }}"), None);
    let mut decoder = decoder(&wide);
    assert_eq!(decoder.push(b"\x80\x7d\x01"), Ok(1));
    assert_eq!(rows(&mut decoder)[0]["f2000"], json!(1));
}

use proptest::prelude::*;

use super::*;

fn path(text: &str) -> TreePath {
    TreePath::parse_any(text).unwrap()
}

fn sample() -> Vec<Operation> {
    vec![
        Operation {
            path: path("a"),
            before: Before::NotRecorded,
            what: What::Payload(b"xyz".as_slice().into()),
        },
        Operation {
            path: path("d/b"),
            before: Before::Absent,
            what: What::Staged { hidden: path("d/.h"), inode: 7 },
        },
        Operation {
            path: path("c"),
            before: Before::File { inode: 9, modified: Some(Timestamp { seconds: -2, nanos: 3 }) },
            what: What::Absent,
        },
        Operation { path: path("e"), before: Before::File { inode: 1, modified: None }, what: What::Absent },
    ]
}

fn frame() -> (Vec<u8>, Vec<Record>) {
    let mut commit = encode_commit(&sample());
    number(&mut commit, 258);
    let mut list = encode_list(77, [5; 32], "list-1");
    number(&mut list, 259);
    let (first, second) = (path("d/.h"), path(".i"));
    let body = [encode_prepare([&first, &second]), commit, list, encode_done(257)].concat();
    let records = vec![
        Record::Prepare(vec![first, second]),
        Record::Commit(Commit { number: 258, operations: sample() }),
        Record::List(ListCommit { number: 259, len: 77, digest: [5; 32], file: "list-1".to_owned() }),
        Record::Done(257),
    ];
    (body, records)
}

fn read(body: &[u8]) -> Result<Vec<Record>, Malformed> {
    let mut records = Vec::new();
    decode(body, &mut |record| records.push(record))?;
    Ok(records)
}

#[test]
fn what_is_written_is_read() {
    let (body, records) = frame();
    assert_eq!(read(&body).unwrap(), records);
    assert_eq!(read(&[]).unwrap(), []);
}

/// Whoever moves a field changes the format, and must say so.
#[test]
fn golden_bytes() {
    let mut commit = encode_commit(sample().get(..2).unwrap());
    number(&mut commit, 258);
    let expected: &[&[u8]] = &[
        &[2, 52, 0, 0, 0],
        &[2, 1, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0],
        &[1, 0, b'a', 0, 1, 3, 0, 0, 0, b'x', b'y', b'z'],
        &[3, 0, b'd', b'/', b'b', 1, 2, 4, 0, b'd', b'/', b'.', b'h', 7, 0, 0, 0, 0, 0, 0, 0],
    ];
    let len = u8::try_from(expected.concat().len() - HEAD_LEN).unwrap();
    let mut expected = expected.concat();
    expected[1] = len;
    assert_eq!(commit, expected);
    assert_eq!(encode_done(3), [4, 8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encode_prepare([&path("h")]), [1, 3, 0, 0, 0, 1, 0, b'h']);
    assert_eq!(COMMIT_LEN, encode_commit(&[]).len());
    let payload = sample().remove(0);
    assert_eq!(
        COMMIT_LEN + payload_operation_len(&payload.path, 3),
        encode_commit(std::slice::from_ref(&payload)).len()
    );
}

#[test]
fn every_truncation_is_refused_or_a_shorter_row_of_records() {
    let (body, records) = frame();
    for len in 0..body.len() {
        match read(&body[..len]) {
            Ok(shorter) => assert!(records.starts_with(&shorter) && shorter.len() < records.len(), "{len}"),
            Err(why) => assert!(!why.to_string().is_empty()),
        }
    }
    let mut list = Vec::new();
    encode_operations(&sample(), &mut list);
    assert_eq!(decode_operations(&list).unwrap(), sample());
    for len in 0..list.len() {
        assert!(decode_operations(&list[..len]).is_err(), "{len}");
    }
    list.push(0);
    assert_eq!(decode_operations(&list), Err(Malformed::LeftOver { at: list.len() - 1 }));
}

#[test]
fn a_path_that_leads_out_of_the_root_is_refused() {
    let mut record = begin(1);
    text("../etc", &mut record);
    assert_eq!(read(&end(record)), Err(Malformed::Path { at: 0 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn decoding_is_total(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(read(&body));
        drop(decode_operations(&body));
    }

    #[test]
    fn every_changed_byte_is_refused_or_read_as_something(at in 0_usize..100, bit in 0_u8..8) {
        let (mut body, _) = frame();
        if let Some(byte) = body.get_mut(at) {
            *byte ^= 1 << bit;
        }
        drop(read(&body));
    }
}

use super::*;
use crate::vectors;
use proptest::prelude::*;

const KEY: [u8; 32] = [7; 32];

#[test]
fn published_vectors() {
    let Some(folder) = vectors("floe") else { return };
    let read = |name: &str| hex::decode(std::fs::read_to_string(folder.join(name)).unwrap().trim()).unwrap();
    let mut agree = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix("_ct.txt") else { continue };
        let bits = if stem.ends_with("rotation") { 2 } else { ROTATION_BITS };
        let (ciphertext, plaintext) = (read(&name), read(&format!("{stem}_pt.txt")));
        assert_eq!(*open_rotating(&[0; 32], b"This is AAD", &ciphertext, bits).unwrap(), plaintext, "{stem}");
        assert_eq!(open_rotating(&[0; 32], b"This is aad", &ciphertext, bits).err(), Some(FloeError::Key), "{stem}");
        agree += 1;
    }
    assert_eq!(agree, 17);
    println!("floe: {agree} published streams open, none with another AAD");
}

#[test]
fn bad_headers() {
    let stream = seal(&KEY, b"", 64, b"text").unwrap();
    for length in 0..stream.len() {
        assert!(open(&KEY, b"", &stream[..length]).is_err(), "cut to {length}");
    }
    for segment_len in [0, 32, MAX_SEGMENT_LEN + 1, u32::MAX] {
        assert_eq!(seal(&KEY, b"", segment_len, b"").err(), Some(FloeError::Header));
        let mut bad = stream.clone();
        bad[2..6].copy_from_slice(&segment_len.to_be_bytes());
        assert_eq!(open(&KEY, b"", &bad).err(), Some(FloeError::Header));
    }
    assert_eq!(open(&[8; 32], b"", &stream).err(), Some(FloeError::Key));
    assert_eq!(open(&KEY, b"x", &stream).err(), Some(FloeError::Key));
}

#[test]
fn segments_cannot_be_moved_repeated_or_removed() {
    let stream = seal(&KEY, b"", 64, &[5; 32 * 4 + 3]).unwrap();
    let (header, body) = stream.split_at(HEADER_LEN);
    let segments: Vec<&[u8]> = body.chunks(64).collect();
    assert_eq!(segments.len(), 5);
    let refused = |order: &[usize]| {
        let bad = [header, &order.iter().map(|i| segments[*i]).collect::<Vec<_>>().concat()].concat();
        open(&KEY, b"", &bad).err().unwrap()
    };
    assert_eq!(refused(&[1, 0, 2, 3, 4]), FloeError::Segment(0));
    assert_eq!(refused(&[0, 1, 1, 2, 3, 4]), FloeError::Segment(2));
    assert_eq!(refused(&[0, 2, 3, 4]), FloeError::Segment(1));
    assert_eq!(refused(&[0, 1, 2, 3]), FloeError::Truncated);
    assert_eq!(refused(&[4]), FloeError::Segment(0));
    assert_eq!(refused(&[0, 1, 2, 3, 4, 4]), FloeError::Segment(4));
}

#[test]
fn keys_rotate() {
    let (mut cipher, _) = Cipher::start(&KEY, b"", 64).unwrap();
    cipher.rotation_bits = 2;
    let mut segment = [0; 64];
    cipher.seal(5, false, &[1; 32], &mut segment).unwrap();
    let mut out = [0; 32];
    cipher.open_segment(5, false, &segment, &mut out).unwrap();
    cipher.rotation_bits = 1;
    cipher.open_segment(5, false, &segment, &mut out).unwrap();
    cipher.rotation_bits = 0;
    assert_eq!(cipher.open_segment(5, false, &segment, &mut out), Err(FloeError::Segment(5)));
}

#[test]
fn layouts_are_bounded() {
    assert!(Layout::new(u64::MAX, 1 << 20).is_none());
    assert!(Layout::new(1, 32).is_none());
    assert!(Layout::new(MAX_SEGMENTS, 33).is_some());
    assert!(Layout::new(MAX_SEGMENTS + 1, 33).is_none());
    let (cipher, _) = Cipher::start(&KEY, b"", 64).unwrap();
    assert_eq!(cipher.seal(MAX_SEGMENTS, true, b"", &mut [0; 32]), Err(FloeError::Segment(MAX_SEGMENTS)));
}

proptest! {
    #[test]
    fn what_is_sealed_opens(plain in proptest::collection::vec(any::<u8>(), 0..300), segment_len in 33u32..200) {
        let stream = seal(&KEY, b"a", segment_len, &plain).unwrap();
        let layout = Layout::new(plain.len() as u64, segment_len as usize).unwrap();
        prop_assert_eq!(stream.len() as u64, layout.stream_len());
        prop_assert_eq!(&*open(&KEY, b"a", &stream).unwrap(), &plain);
        let cipher = Cipher::open(&KEY, b"a", stream.first_chunk().unwrap()).unwrap();
        for position in (0..layout.segments()).rev() {
            let (range, last) = layout.segment(position);
            let segment = &stream[range.start as usize..range.end as usize];
            let mut out = vec![0; segment.len() - OVERHEAD];
            cipher.open_segment(position, last, segment, &mut out).unwrap();
            prop_assert!(plain[position as usize * cipher.plain_len()..].starts_with(&out));
        }
    }

    #[test]
    fn any_change_is_refused(at in any::<prop::sample::Index>(), mask in 1u8..) {
        let mut stream = seal(&KEY, b"", 64, &[3; 100]).unwrap();
        let at = at.index(stream.len());
        stream[at] ^= mask;
        prop_assert!(open(&KEY, b"", &stream).is_err());
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open(&KEY, b"", &bytes).is_err());
    }
}

//! What `Frames` lets pass, and what it does not.

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn greeted(is_peer: bool) -> Frames {
    let mut frames = Frames::new(is_peer);
    assert_eq!(frames.read(&frame(SETTINGS, 0, 0, &[])), Ok(Standing::Whole));
    frames
}

/// How many of `bytes` pass, of at most `most`.
fn passing(frames: &mut Frames, bytes: &[u8], most: usize) -> usize {
    (0..most).take_while(|_| frames.read(bytes).is_ok()).count()
}

#[test]
fn an_unfinished_head_is_seen_wherever_the_bytes_are_split() {
    let whole =
        [frame(SETTINGS, 0, 0, &[0; 6]), frame(HEADERS, 0, 1, b"abc"), frame(CONTINUATION, END_HEADERS, 1, b"de")];
    let bytes = whole.concat();
    for split in 1..bytes.len() {
        let mut frames = Frames::new(false);
        let first = frames.read(&bytes[..split]).unwrap();
        let at_rest = split == whole[0].len();
        assert_eq!(first == Standing::Whole, at_rest, "{split}");
        assert_eq!(frames.read(&bytes[split..]), Ok(Standing::Whole), "{split}");
    }
}

#[test]
fn a_head_that_goes_on_is_told_from_one_that_begins() {
    let mut frames = greeted(false);
    assert_eq!(frames.read(&frame(HEADERS, 0, 1, b"a")), Ok(Standing::Begun));
    assert_eq!(frames.read(&frame(CONTINUATION, 0, 1, b"b")), Ok(Standing::Unfinished));
    let ends_and_begins = [frame(CONTINUATION, END_HEADERS, 1, b"c"), frame(HEADERS, 0, 3, b"d")].concat();
    assert_eq!(frames.read(&ends_and_begins), Ok(Standing::Begun));
}

#[test]
fn a_body_may_take_its_time() {
    let mut frames = greeted(false);
    let data = frame(DATA, 0, 1, &[7; 100]);
    assert_eq!(frames.read(&data[..50]), Ok(Standing::Whole));
    assert_eq!(frames.read(&data[50..]), Ok(Standing::Whole));
    assert_eq!(frames.read(&data[..5]), Ok(Standing::Begun), "its nine bytes are no body yet");
}

#[test]
fn silence_after_the_preface_is_an_unfinished_head() {
    assert_eq!(Frames::new(false).read(&[]), Ok(Standing::Unfinished));
}

#[test]
fn each_kind_of_idle_frame_is_bounded_and_a_peer_has_ten_times_as_many() {
    for (kind, flags, payload) in [
        (PING, 0, &[0; 8][..]),
        (SETTINGS, 0, &[]),
        (2, 0, &[0; 5]),
        (8, 0, &[0; 4]),
        (DATA, 0, &[]),
        (CONTINUATION, 0, &[]),
        (99, 0, b"x"),
    ] {
        let bytes = frame(kind, flags, 1, payload);
        let passed = passing(&mut greeted(false), &bytes, 200_000);
        assert!((4_000..40_000).contains(&passed), "{kind}: {passed}");
        let of_peer = passing(&mut greeted(true), &bytes, 300_000);
        assert!(of_peer > 2 * passed, "{kind}: {of_peer}");
    }
}

#[test]
fn streams_that_are_opened_to_be_reset_are_bounded() {
    let mut frames = greeted(false);
    let mut pairs = 0;
    for stream in (1..200_000).step_by(2) {
        let pair = [frame(HEADERS, END_HEADERS, stream, b"x"), frame(RST_STREAM, 0, stream, &[0; 4])].concat();
        if let Err(excess) = frames.read(&pair) {
            assert_eq!(excess, Excess::Resets);
            break;
        }
        pairs += 1;
    }
    assert!((900..3_000).contains(&pairs), "{pairs}");
}

#[test]
fn trailers_earn_no_resets() {
    let mut frames = greeted(false);
    let opened = |stream| {
        let headers = frame(HEADERS, END_HEADERS, stream, b"x");
        [headers.clone(), headers, frame(RST_STREAM, 0, stream, &[0; 4])].concat()
    };
    let passed = (1..20_000).step_by(2).take_while(|stream| frames.read(&opened(*stream)).is_ok()).count();
    assert!(passed < 3_000, "{passed}");
}

#[test]
fn honest_clients_are_never_bounded() {
    let mut frames = greeted(false);
    for stream in (1..200_000).step_by(2) {
        frames.read(&frame(HEADERS, END_HEADERS, stream, b"x")).unwrap();
        frames.read(&frame(DATA, 0, stream, b"content")).unwrap();
        frames.read(&frame(DATA, END_STREAM, stream, &[])).unwrap();
        // Every third is given up, and what we sent is acknowledged.
        if stream % 3 == 0 {
            frames.read(&frame(RST_STREAM, 0, stream, &[0; 4])).unwrap();
        }
        frames.sent(100);
        frames.read(&frame(8, 0, stream, &[0; 4])).unwrap();
        frames.read(&frame(8, 0, 0, &[0; 4])).unwrap();
    }
}

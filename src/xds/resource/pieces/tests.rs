use std::collections::HashSet;

use super::*;

/// Pieces of the size of a service's part of a listener.
fn pieces(count: u32, changed: Option<u32>) -> Pieces {
    let part = |at: u32| {
        let text = format!("{at} {} ", changed == Some(at));
        Piece::new(text.into_bytes().repeat(1000 + at as usize % 100))
    };
    Pieces::new((0..count).map(part).collect())
}

fn content(pieces: &Pieces) -> Vec<u8> {
    pieces.iter().map(|piece| &**piece).collect::<Vec<_>>().concat()
}

#[test]
fn joined_pieces_are_the_same_message() {
    for count in [0, 1, 2, 3, 50, 500] {
        let loose = pieces(count, None);
        let joined = loose.joined(None);
        assert_eq!(content(&joined), content(&loose));
        assert_eq!((joined.len(), content(&joined).len()), (loose.len(), loose.len()));
        let last = joined.iter().count().saturating_sub(1);
        assert!(joined.iter().take(last).all(|piece| piece.len() >= LEAST));
        assert!(joined.iter().all(|piece| piece.len() < MOST + LARGE));
    }
}

#[test]
fn large_pieces_stay_by_themselves() {
    let sizes = [10, LARGE, 10, 10, LARGE, LARGE];
    let loose = Pieces::new(sizes.into_iter().map(|size| Piece::new(vec![1; size])).collect());
    let joined = loose.joined(None);
    assert_eq!(joined.iter().map(Bytes::len).collect::<Vec<_>>(), [10, LARGE, 20, LARGE, LARGE]);
    let whole: HashSet<_> = loose.iter().map(|piece| piece.as_ptr()).collect();
    assert!(joined.iter().filter(|piece| piece.len() == LARGE).all(|piece| whole.contains(&piece.as_ptr())));
}

#[test]
fn what_has_not_changed_is_shared() {
    const COUNT: u32 = 400;
    let before = pieces(COUNT, None).joined(None);
    let known: HashSet<_> = before.iter().map(|piece| piece.as_ptr()).collect();
    for changed in (0..COUNT).step_by(57) {
        let after = pieces(COUNT, Some(changed));
        let joined = after.joined(Some(&before));
        assert_eq!(content(&joined), content(&after));
        let copied: usize =
            joined.iter().filter(|piece| !known.contains(&piece.as_ptr())).map(|piece| piece.len()).sum();
        // The run of the one that changed, and as much as it moves its ends.
        assert!(copied > 0 && copied <= 4 * MOST && copied * 5 < after.len(), "{copied} of {}", after.len());
    }
}

#[test]
fn hashes_tell_messages_apart() {
    let hashes: HashSet<_> = [None, Some(3), Some(4)].map(|changed| pieces(5, changed).hash()).into();
    assert_eq!(hashes.len(), 3);
    assert_eq!(pieces(5, Some(3)).hash(), pieces(5, Some(3)).hash());
}

use super::*;

fn size<T: ?Sized>(pool: &Pool<T>) -> usize {
    pool.0.lock().unwrap().as_ref().map_or(0, |shared| shared.values.len())
}

#[test]
fn equal_values_are_one() {
    let pool = Pool::<str>::new();
    let [a, b] = [0, 1].map(|_| pool.shared("text", |text| text.into()));
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(size(&pool), 1);
}

/// Pods whose labels never come twice, a hundred each second for as long as the
/// process lives, leave no more behind than there ever is at a time.
#[test]
fn values_that_nobody_holds_do_not_pile_up() {
    let pool = Pool::<str>::new();
    let kept: Vec<_> = (0..3000).map(|at| pool.shared(&format!("kept {at}"), |text| text.into())).collect();
    let mut largest = 0;
    for at in 0..100_000 {
        drop(pool.shared(&format!("passing {at}"), |text| text.into()));
        largest = largest.max(size(&pool));
    }
    assert!(largest <= SWEEP.max(2 * kept.len()), "{largest}");
    for (at, kept) in kept.iter().enumerate() {
        assert!(Arc::ptr_eq(kept, &pool.shared(&format!("kept {at}"), |_| panic!("it is there"))));
    }
}

/// What is in keys behaves as the value does.
#[test]
fn a_remembered_hash_changes_nothing() {
    let hash = |value: &Hashed<Vec<u8>>| rapidhash::fast::SeedableState::fixed().hash_one(value);
    let [one, same, other] = [vec![1, 2], vec![1, 2], vec![1, 1, 1]].map(Hashed::from);
    assert_eq!((&one, hash(&one)), (&same, hash(&same)));
    assert_eq!((&one, hash(&one)), (&one.clone(), hash(&one.clone())));
    assert_ne!(one, other);
    assert_eq!(one.cmp(&same), Ordering::Equal);
    assert_eq!(one.cmp(&other), one.to_vec().cmp(&other.to_vec()));
    assert_eq!(format!("{one:?}"), "[1, 2]");
}

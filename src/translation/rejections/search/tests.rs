use std::collections::BTreeSet;

use super::*;

/// What is found among parts with these numbers, by how many questions.
fn search(count: usize, guilty: &[usize]) -> (BTreeSet<usize>, usize) {
    let name = |number: usize| Name::from(number.to_string());
    let bad: BTreeSet<Name> = guilty.iter().copied().map(name).collect();
    let mut search = Search::new((0..count).map(name).collect());
    let mut questions = 0;
    while !search.asked().is_empty() {
        questions += 1;
        assert!(questions <= 2 * count + 1, "it does not come to an end");
        let rejected = search.asked().iter().any(|one| bad.contains(one));
        search.answered(rejected.then_some("no"));
    }
    (search.found().map(|(name, _)| name.parse().expect("a number")).collect(), questions)
}

#[test]
fn whoever_is_to_blame_is_found_with_few_questions() {
    for (count, guilty, most) in [
        (1, vec![0], 1),
        (2, vec![1], 2),
        (4, vec![2], 4),
        (4, vec![0, 3], 7),
        (1000, vec![0, 1, 2], 36),
        (1000, vec![0], 11),
        (1000, vec![999], 11),
        (1000, vec![333], 11),
        (1000, vec![1, 998], 24),
        (1000, vec![10, 500, 501], 33),
    ] {
        let (found, questions) = search(count, &guilty);
        assert_eq!(found, guilty.iter().copied().collect(), "{guilty:?} of {count}");
        assert!(questions <= most, "{guilty:?} of {count}: {questions}");
    }
}

#[test]
fn what_all_have_in_common_is_not_the_fault_of_each() {
    for count in [2, 4, 1000] {
        let all: Vec<_> = (0..count).collect();
        let (found, questions) = search(count, &all);
        assert_eq!(found, BTreeSet::new());
        assert!(questions <= 40, "{questions} for {count}");
    }
}

#[test]
fn nobody_is_blamed_for_what_none_is_to_blame_for() {
    for count in [0, 1, 2, 3, 100] {
        let (found, questions) = search(count, &[]);
        assert_eq!(found, BTreeSet::new());
        assert!(questions <= 8, "{questions} for {count}");
    }
}

use super::{WIDTH, bar};

#[test]
fn a_bar_is_as_full_as_the_step_is_done() {
    assert_eq!(bar(0, 10).matches('#').count(), 0);
    assert_eq!(bar(5, 10).matches('#').count(), WIDTH / 2);
    assert_eq!(bar(99, 10).matches('#').count(), WIDTH);
    assert_eq!(bar(0, 0).matches('#').count(), WIDTH);
}

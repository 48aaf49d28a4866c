use super::{bootstrap, median, percentile, ratio, slope};

#[test]
fn percentiles_are_values_that_were_measured() {
    let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!(percentile(&mut values, 0.5), 50.0);
    assert_eq!(percentile(&mut values, 0.99), 99.0);
    assert_eq!(percentile(&mut values, 1.0), 100.0);
    assert_eq!(percentile(&mut [7.0], 0.99), 7.0);
    assert!(percentile(&mut [], 0.5).is_nan());
}

#[test]
fn a_median_of_an_even_number_is_between_two() {
    assert_eq!(median(&[4.0, 1.0, 3.0]), 3.0);
    assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    assert!(median(&[]).is_nan());
}

#[test]
fn pairs_are_compared_with_each_other_and_not_with_the_mean() {
    // The second half of the run was twice as slow for both.
    let ratio = ratio([(10.0, 5.0), (20.0, 10.0), (22.0, 11.0), (40.0, 20.0)]).expect("pairs");
    assert_eq!(ratio.median, 2.0);
    assert_eq!(ratio.interval, Some((2.0, 2.0)));
}

#[test]
fn one_pair_has_no_confidence_and_none_has_no_ratio() {
    assert_eq!(ratio([(3.0, 2.0)]).and_then(|ratio| ratio.interval), None);
    assert_eq!(ratio([]), None);
    assert_eq!(ratio([(1.0, 0.0)]), None);
}

#[test]
fn an_interval_holds_the_median_and_is_the_same_every_time() {
    let values = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 0.95];
    let (low, high) = bootstrap(&values);
    assert!((0.8..1.0).contains(&low) && high > 1.0 && high <= 1.2, "{low} {high}");
    assert_eq!(bootstrap(&values), (low, high));
}

#[test]
fn a_slope_ignores_what_all_points_share() {
    let points = [(10.0, 50.0), (20.0, 70.0), (40.0, 110.0)];
    assert!((slope(&points) - 2.0).abs() < 1e-9);
}

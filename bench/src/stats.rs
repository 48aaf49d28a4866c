//! Numbers made of many numbers: percentiles, ratios of pairs with their
//! confidence, slopes.

/// How many resamples a confidence interval is read from.
const RESAMPLES: usize = 2000;

/// The value below which a part of the values are (nearest rank). Sorts them.
pub fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * part).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The value in the middle, or between the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), values.len() % 2) {
        (Some(middle), 1) => *middle,
        (Some(above), _) => (values[half - 1] + above) / 2.0,
        (None, _) => f64::NAN,
    }
}

/// A ratio, and between which ratios it is with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median of the ratios of pairs.
    pub median: f64,
    /// The interval; a single pair says nothing about it.
    pub interval: Option<(f64, f64)>,
}

/// The median of the ratios of pairs that were measured one right after the
/// other, so that what slows a machine down for minutes slows both down.
pub fn ratio(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Ratio> {
    let ratios: Vec<f64> =
        pairs.into_iter().map(|(value, base)| value / base).filter(|ratio| ratio.is_finite()).collect();
    if ratios.is_empty() {
        return None;
    }
    Some(Ratio { median: median(&ratios), interval: (ratios.len() > 1).then(|| bootstrap(&ratios)) })
}

/// The 95 % interval of the median: resampled with replacement, from a fixed
/// seed, so that a report can be made again from its numbers.
fn bootstrap(values: &[f64]) -> (f64, f64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    };
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<f64> = values.iter().map(|_| values[next() % values.len()]).collect();
            median(&sample)
        })
        .collect();
    (percentile(&mut medians, 0.025), percentile(&mut medians, 0.975))
}

/// The slope of the line through points with the least squares.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let together: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    together / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}

#[cfg(test)]
mod tests;

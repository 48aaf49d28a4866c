//! Envoy's metrics under the names that dashboards and alerts for Istio have.
//!
//! Envoy puts `envoy_` before the names of all metrics, also of those that the
//! control plane has it count as Istio does.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

const PREFIX: &[u8] = b"envoy_istio_";
/// What Envoy adds to it.
const ADDED: usize = b"envoy_".len();

/// A page of metrics as it comes, in which Istio's have their own names. A line
/// is passed on when it is there as a whole.
pub fn under_istios_names<E>(page: impl Stream<Item = Result<Bytes, E>>) -> impl Stream<Item = Result<Bytes, E>> {
    // The end of the page, after which nothing of it may be left.
    let pieces = page.map(Some).chain(futures::stream::iter([None]));
    pieces.scan(BytesMut::new(), |rest, piece| {
        let passed = match piece {
            Some(Ok(piece)) => {
                rest.extend_from_slice(&piece);
                let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                Ok(renamed(&rest.split_to(end)))
            }
            Some(Err(error)) => Err(error),
            None => Ok(renamed(&rest.split())),
        };
        std::future::ready(Some(passed))
    })
}

fn renamed(lines: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(lines.len());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        // The name is at the start, or after `# TYPE `.
        let before = if line.starts_with(b"# TYPE ") { b"# TYPE ".len() } else { 0 };
        if line[before..].starts_with(PREFIX) {
            out.extend_from_slice(&line[..before]);
            out.extend_from_slice(&line[before + ADDED..]);
        } else {
            out.extend_from_slice(line);
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn page(pieces: &[&str]) -> String {
        let pieces =
            futures::stream::iter(pieces.iter().map(|piece| Ok::<_, ()>(Bytes::copy_from_slice(piece.as_bytes()))));
        let all: Vec<_> = under_istios_names(pieces).map(Result::unwrap).collect().await;
        String::from_utf8(all.concat()).unwrap()
    }

    #[tokio::test]
    async fn istios_metrics_have_istios_names_however_the_page_comes() {
        let whole = "# TYPE envoy_istio_requests_total counter\nenvoy_istio_requests_total{a=\"envoy_istio_\"} 1\n\
                     # TYPE envoy_cluster counter\nenvoy_cluster{} 2\n# no end";
        let wanted = "# TYPE istio_requests_total counter\nistio_requests_total{a=\"envoy_istio_\"} 1\n\
                      # TYPE envoy_cluster counter\nenvoy_cluster{} 2\n# no end";
        assert_eq!(page(&[whole]).await, wanted);
        for at in 0..whole.len() {
            let (one, other) = whole.split_at(at);
            assert_eq!(page(&[one, other]).await, wanted, "{at}");
        }
        assert_eq!(page(&[]).await, "");
    }
}

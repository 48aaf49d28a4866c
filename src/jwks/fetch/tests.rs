//! Against a server on this machine.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const KEYS: &str = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;

/// A server that answers each path with a status, a location and a body.
async fn server(answers: impl Fn(&str) -> (u16, String, String) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 8192 {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => break,
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let (status, location, body) = answers(request.split(' ').nth(1).unwrap_or_default());
            let location = if location.is_empty() { location } else { format!("location: {location}\r\n") };
            let head =
                format!("HTTP/1.1 {status} x\r\n{location}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
            // The client may have heard enough.
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    address
}

fn fetcher(loopback: bool) -> Fetcher {
    let guard = Guard { blocked: Vec::new(), loopback };
    let none = Path::new("/nonexistent");
    Fetcher::new(&Options { refresh: Duration::from_secs(1), guard, extra_roots: none }).unwrap()
}

async fn keys(fetcher: &Fetcher, uri: &str) -> Result<Arc<str>, String> {
    fetcher.keys(KeySource::Uri(uri.into()), Duration::from_secs(5)).await
}

fn ok(body: &str) -> (u16, String, String) {
    (200, String::new(), body.into())
}

#[tokio::test]
async fn keys_are_where_the_uri_or_the_issuer_says() {
    let keys_at = server(|path| if path == "/keys" { ok(KEYS) } else { (404, String::new(), "no".into()) }).await;
    let fetcher = fetcher(true);
    assert_eq!(keys(&fetcher, &format!("http://{keys_at}/keys")).await, Ok(KEYS.into()));
    assert_eq!(keys(&fetcher, &format!("http://{keys_at}/other")).await, Err("the answer is 404".into()));
    let issuer = server(move |path| match path {
        "/realm/.well-known/openid-configuration" => ok(&format!("{{\"jwks_uri\": \"http://{keys_at}/keys\"}}")),
        _ => ok("{}"),
    })
    .await;
    for issuer in [format!("http://{issuer}/realm"), format!("http://{issuer}/realm/")] {
        let source = KeySource::Issuer(issuer.into());
        assert_eq!(fetcher.keys(source, Duration::from_secs(5)).await, Ok(KEYS.into()));
    }
    let nothing = KeySource::Issuer(format!("http://{issuer}").into());
    assert_eq!(
        fetcher.keys(nothing, Duration::from_secs(5)).await,
        Err("the OpenID configuration has no jwks_uri".into())
    );
}

#[tokio::test]
async fn redirects_are_followed_only_to_where_they_may_lead() {
    let address = server(|path| match path {
        "/keys" => ok(KEYS),
        "/once" => (302, "/keys".into(), String::new()),
        "/round" => (302, "/round".into(), String::new()),
        "/metadata" => (302, "http://169.254.169.254/latest".into(), String::new()),
        "/mapped" => (302, "http://[::ffff:169.254.169.254]/latest".into(), String::new()),
        "/file" => (302, "file:///etc/passwd".into(), String::new()),
        _ => (302, String::new(), String::new()),
    })
    .await;
    let fetcher = fetcher(true);
    let at = |path: &str| format!("http://{address}{path}");
    assert_eq!(keys(&fetcher, &at("/once")).await, Ok(KEYS.into()));
    assert_eq!(keys(&fetcher, &at("/round")).await, Err("there are too many redirects".into()));
    for path in ["/metadata", "/mapped"] {
        let why = keys(&fetcher, &at(path)).await.unwrap_err();
        assert!(why.contains("169.254.169.254") && why.contains("link-local"), "{why}");
    }
    assert!(keys(&fetcher, &at("/file")).await.unwrap_err().contains("no http or https URL"));
    assert_eq!(keys(&fetcher, &at("/nowhere")).await, Err("a redirect leads nowhere".into()));
}

#[tokio::test]
async fn addresses_are_checked_after_names_were_looked_up() {
    let address = server(|_| ok(KEYS)).await;
    let fetcher = fetcher(false);
    for host in ["127.0.0.1", "localhost"] {
        let why = keys(&fetcher, &format!("http://{host}:{}/keys", address.port())).await.unwrap_err();
        assert!(why.contains("the control plane's own machine"), "{host}: {why}");
    }
}

#[tokio::test]
async fn answers_have_limits() {
    let long = "a".repeat(LONGEST + 1);
    let address = server(move |path| if path == "/long" { ok(&long) } else { ok("<html>") }).await;
    let fetcher = fetcher(true);
    let why = keys(&fetcher, &format!("http://{address}/long")).await;
    assert_eq!(why, Err("the answer is too long or breaks off".into()));
    assert_eq!(keys(&fetcher, &format!("http://{address}/")).await, Err("what is there is no JSON".into()));
    // It takes connections and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let source = KeySource::Uri(format!("http://{}/", silent.local_addr().unwrap()).into());
    let why = fetcher.keys(source, Duration::from_millis(100)).await;
    assert_eq!(why, Err("there is no answer in time".into()));
}

#[test]
fn uris() {
    for bad in ["", "keys", "ftp://a/b", "/keys", "file:///a", "http://"] {
        assert!(checked(bad).is_err(), "{bad}");
    }
    let from = checked("https://a/b?c").unwrap();
    let to = |location: &str| {
        let headers = HeaderMap::from_iter([(header::LOCATION, location.parse().unwrap())]);
        redirect(&from, &headers).map(|uri| uri.to_string())
    };
    assert_eq!(to("/d"), Ok("https://a/d".into()));
    assert_eq!(to("https://e/"), Ok("https://e/".into()));
    assert!(to("http://a/d").is_err() && to("//e/d").is_err() && to("d").is_err());
}

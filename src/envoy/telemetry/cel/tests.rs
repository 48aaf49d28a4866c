use super::*;

#[track_caller]
fn taken(text: &str) {
    assert_eq!(check(text), Ok(()), "{text}");
}

#[track_caller]
fn refused(text: &str) {
    assert!(check(text).is_err(), "{text}");
}

#[test]
fn what_people_write() {
    taken("response.code >= 400");
    taken("response.code >= 400 || connection.mtls == false");
    taken("request.headers['x-a'] == \"b\" && !(request.path.startsWith('/healthz'))");
    taken("has(request.headers) ? request.url_path : 'none'");
    taken("response.code in [500, 502, 503,]");
    taken("request.duration > duration('1s') && request.time.getHours() < 6");
    taken("request.path.matches(r'^/api/v\\d+/') || matches(request.host, 'a.*')");
    taken("xds.route_name == 'x' // why");
    taken("-1 + 2u - 0x1F * .5 / 1.5e-3 % 2 == 0");
    taken("{'a': 1, \"b\": [2]}['a'] == 1");
    taken("'\\x41\\u0041\\U00000041\\101\\n' + '''a\nb'''");
    taken("filter_state['io.istio.peer_principal'] != ''");
}

#[test]
fn what_envoy_would_refuse_the_listener_for() {
    for text in [
        "",
        "response.code >=",
        "response.code => 400",
        "response.code > 400)",
        "(response.code",
        "request.headers['a'",
        "'no end",
        "'two\nlines'",
        "'\\q'",
        "'\\400'",
        "1abc",
        "99999999999999999999",
        "a b",
        "a ? b",
        "a.in",
        "if == 1",
        "a && && b",
        "f(x)",
        "request.headers.exists(h, h == 'a')",
        "string(response.code)",
        "has(request)",
        "has(request['a'])",
        "size()",
        "request.path.contains('a', 'b')",
        "request.path.matches('(')",
        "a = 1",
        "a; b",
        "[1,,2]",
        "size(1,)",
        "{1}",
    ] {
        refused(text);
    }
}

#[test]
fn nesting_and_length_have_bounds() {
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    taken(&nested(20));
    taken(&vec!["a.b.c == 'd'"; 200].join(" && "));
    taken(&vec!["a + b > c"; 200].join(" || "));
    for deep in [
        nested(30),
        nested(1000),
        format!("{}a", "!".repeat(30)),
        format!("a{}", ".b".repeat(30)),
        format!("a{}", "[0]".repeat(30)),
        vec!["a"; 30].join(" + "),
        vec!["a"; 30].join(" == "),
        format!("{}c", "a ? b : ".repeat(30)),
        format!("{}a{}", "size(".repeat(30), ")".repeat(30)),
        format!("{}1{}", "[".repeat(30), "]".repeat(30)),
        format!("({}) + a{}", vec!["a"; 15].join(" + "), ".b".repeat(20)) + &".contains(c)".repeat(10),
        format!("'{}'", "a".repeat(5000)),
    ] {
        refused(&deep);
    }
}

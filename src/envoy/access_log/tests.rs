use super::*;

#[test]
fn the_default_line_is_istios() {
    let line = default_line();
    assert!(line.starts_with("[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" "));
    assert!(line.ends_with(" %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"));
    assert_eq!(checked(&line), Ok(&*line));
}

#[test]
fn formats() {
    for good in ["", "text", "100%%", "%START_TIME(%Y/%m/%dT%H:%M:%S%z)% %REQ(X?Y):10%", "%CEL(size(a) > (1))%"] {
        assert_eq!(checked(good), Ok(good));
    }
    for bad in ["%", "%req(x)%", "%REQ(x)", "%REQ(x", "%START_TIME", "100% of", "%REQ(x):a%"] {
        assert!(checked(bad).is_err(), "{bad}");
    }
}

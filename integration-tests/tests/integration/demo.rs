//! `make demo` does what it says.

use std::process::Stdio;

pub async fn ends_well() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_demo"));
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let refused = "DELETE /reviews/0: 403 \"RBAC: access denied\"";
    assert_eq!(said.matches(refused).count(), 2, "once for sleep and once for the browser: {said}");
    assert!(said.ends_with("all as told\n"), "{said}");
}

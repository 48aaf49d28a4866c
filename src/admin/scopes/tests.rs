use std::sync::mpsc;

use super::*;

fn levels(in_force: &str) -> (Levels, mpsc::Receiver<String>) {
    let (sender, applied) = mpsc::channel();
    let sender = Mutex::new(sender);
    let apply = move |text: &str| {
        sender.lock().expect("nobody panics").send(text.to_owned()).map_err(|error| error.to_string())
    };
    (Levels::new(in_force, Box::new(apply)), applied)
}

#[track_caller]
fn check(levels: &Levels, wanted: &[(&str, &str)]) {
    let scopes = levels.scopes();
    let found: Vec<_> = scopes.iter().map(|scope| (scope.name.as_str(), scope.output_level.as_str())).collect();
    assert_eq!(found, wanted);
}

#[test]
fn a_scope_without_a_level_has_the_default() {
    check(
        &levels("all:warn,ads:debug,model:none").0,
        &[
            ("default", "warn"),
            ("ads", "debug"),
            ("ambient", "warn"),
            ("ca", "warn"),
            ("kube", "warn"),
            ("model", "none"),
        ],
    );
    check(
        &levels("").0,
        &[("default", "info"), ("ads", "info"), ("ambient", "info"), ("ca", "info"), ("kube", "info")],
    );
}

#[test]
fn what_is_set_is_put_in_force_with_all_else() {
    let (levels, applied) = levels("default:info,ca:debug");
    levels.set("ads", "debug").expect("a scope and a level");
    assert_eq!(applied.try_recv().as_deref(), Ok("ads:debug,ca:debug,default:info"));
    levels.set("default", "error").expect("a scope and a level");
    assert_eq!(applied.try_recv().as_deref(), Ok("ads:debug,ca:debug,default:error"));
    // As `--stack-trace-reset` asks.
    levels.set("ads", "").expect("nothing to do");
    let unknown = levels.set("nothing", "debug").expect_err("no such scope");
    assert!(unknown.contains("nothing") && unknown.contains("default, ads, ambient, ca, kube"), "{unknown}");
    let unknown = levels.set("ads", "loud").expect_err("no such level");
    assert!(unknown.contains("output_level: \"loud\"") && unknown.contains("none, error"), "{unknown}");
    assert!(applied.try_recv().is_err(), "nothing else was put in force");
}

//! Runs the tests: several at a time on one runtime, each with a time limit,
//! and ends what they share when they are done or called off.
//!
//! Accepts what `cargo test` passes on: names to filter by, `--exact`,
//! `--list` and `--test-threads`.

use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What a test or the end of a run does.
pub type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Longer than any test takes, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(240);
/// Most tests wait for a cluster most of the time.
const THREADS: usize = 4;
const TAIL_LINES: usize = 60;

/// A test.
pub struct Test {
    /// Its module and name.
    pub name: &'static str,
    /// Tests of one lane never run at the same time; empty is no limit.
    pub lane: &'static str,
    /// Does it.
    pub run: fn() -> Run,
}

/// Lists tests: `tests![module("lane"): one, two; other(""): three]`; an
/// empty lane is none.
#[macro_export]
macro_rules! tests {
    ($( $module:ident($lane:literal): $($test:ident),+ );+ $(;)?) => {
        vec![ $( $( $crate::runner::Test {
            name: concat!(stringify!($module), "::", stringify!($test)),
            lane: $lane,
            run: || Box::pin($module::$test()),
        }, )+ )+ ]
    };
}

/// What is known of a running test.
struct Context {
    logs: Mutex<Vec<(String, PathBuf)>>,
    panic: Mutex<Option<String>>,
}

tokio::task_local! { static CONTEXT: Arc<Context>; }

/// Has the end of a log shown if the test that is running fails.
pub fn show_on_failure(what: &str, log: PathBuf) {
    // Without a test there is nobody to show it to.
    let _ = CONTEXT.try_with(|context| {
        let mut logs = context.logs.lock().unwrap();
        if !logs.iter().any(|(_, shown)| *shown == log) {
            logs.push((what.into(), log));
        }
    });
}

/// The folder of this run: logs, keys, data. It stays if a test
/// fails, or if FAIRWAY_KEEP_LOGS is set.
pub fn folder() -> PathBuf {
    // In a process namespace of its own the first process always has the same
    // id, so what started it says another.
    let outside = std::env::var(crate::stage::enter::RUN).map(|run| format!("{run}-")).unwrap_or_default();
    let folder = std::env::temp_dir().join(format!("fairway-tests-{outside}{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

struct Arguments {
    filters: Vec<String>,
    exact: bool,
    list: bool,
    threads: usize,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments { filters: vec![], exact: false, list: false, threads: THREADS };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--exact" => parsed.exact = true,
            "--list" => parsed.list = true,
            "--test-threads" => parsed.threads = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(THREADS),
            threads if threads.starts_with("--test-threads=") => {
                parsed.threads = threads["--test-threads=".len()..].parse().unwrap_or(THREADS);
            }
            // Of the many options of the standard runner none changes what is
            // tested.
            option if option.starts_with('-') => {}
            filter => parsed.filters.push(filter.into()),
        }
    }
    parsed
}

/// Runs the tests that the command line asks for, then `end`.
pub fn main(tests: Vec<Test>, end: fn() -> Run) -> ExitCode {
    let arguments = arguments();
    let wanted = |test: &Test| {
        arguments.filters.is_empty()
            || arguments.filters.iter().any(|filter| match arguments.exact {
                true => test.name == filter,
                false => test.name.contains(filter.as_str()),
            })
    };
    let tests: Vec<Test> = tests.into_iter().filter(wanted).collect();
    if arguments.list {
        tests.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    keep_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let passed = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).unwrap();
        let passed = tokio::select! {
            passed = run_all(tests, arguments.threads) => passed,
            _ = terminated.recv() => false,
            _ = tokio::signal::ctrl_c() => false,
        };
        end().await;
        passed
    });
    // What a test left behind in tasks is dropped here, and its processes end.
    runtime.shutdown_timeout(Duration::from_secs(5));
    if passed && std::env::var_os("FAIRWAY_KEEP_LOGS").is_none() {
        // Only a courtesy; it is a temporary folder.
        let _ = std::fs::remove_dir_all(folder());
        return ExitCode::SUCCESS;
    }
    println!("logs are in {}", folder().display());
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Keeps what a test panics with until the test is reported.
fn keep_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let kept = CONTEXT.try_with(|context| *context.panic.lock().unwrap() = Some(panic.to_string()));
        if kept.is_err() {
            default(panic);
        }
    }));
}

async fn run_all(tests: Vec<Test>, threads: usize) -> bool {
    let (count, started) = (tests.len(), Instant::now());
    let permits = Arc::new(Semaphore::new(threads.max(1)));
    let mut lanes: HashMap<&str, Arc<tokio::sync::Mutex<()>>> = HashMap::new();
    let mut running = JoinSet::new();
    for test in tests {
        let named = Some(test.lane).filter(|lane| !lane.is_empty());
        let (permits, lane) = (permits.clone(), named.map(|lane| lanes.entry(lane).or_default().clone()));
        running.spawn(async move {
            // First the lane: a test that waits for it must not keep another
            // from running.
            let _lane = match &lane {
                Some(lane) => Some(lane.lock().await),
                None => None,
            };
            let _permit = permits.acquire().await.unwrap();
            run_one(&test).await
        });
    }
    let mut failed = vec![];
    while let Some(report) = running.join_next().await {
        failed.extend(report.unwrap());
    }
    for (name, report) in &failed {
        println!("\n---- {name} ----\n{report}");
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    let seconds = started.elapsed().as_secs_f32();
    println!("\ntest result: {result}. {} passed; {} failed; {seconds:.1} s", count - failed.len(), failed.len());
    failed.iter().for_each(|(name, _)| println!("    {name}"));
    failed.is_empty()
}

/// Runs a test; if it fails, returns its name and all there is to say.
async fn run_one(test: &Test) -> Option<(&'static str, String)> {
    let context = Arc::new(Context { logs: Mutex::default(), panic: Mutex::default() });
    let started = Instant::now();
    // A task of its own: a panic then ends the test and nothing else.
    let task = tokio::spawn(CONTEXT.scope(context.clone(), tokio::time::timeout(LIMIT, (test.run)())));
    let abort = AbortOnDrop(task.abort_handle());
    let result = task.await;
    drop(abort);
    let reason = match result {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some(format!("took longer than {LIMIT:?}")),
        Err(error) => Some(context.panic.lock().unwrap().take().unwrap_or(error.to_string())),
    };
    let word = if reason.is_none() { "ok" } else { "FAILED" };
    println!("test {} ... {word} ({:.1} s)", test.name, started.elapsed().as_secs_f32());
    let _ = std::io::stdout().flush();
    let mut report = reason?;
    for (what, log) in &*context.logs.lock().unwrap() {
        report += &format!("\n-- {what}, {}:\n{}", log.display(), tail(log, TAIL_LINES));
    }
    Some((test.name, report))
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The last lines of a file.
pub fn tail(path: &std::path::Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let skip = text.lines().count().saturating_sub(lines);
    text.lines().skip(skip).collect::<Vec<_>>().join("\n")
}

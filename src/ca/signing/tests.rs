use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;

use super::*;

#[tokio::test]
async fn work_is_done_elsewhere_and_answered() {
    let signing = Signing::with_threads(2);
    let here = std::thread::current().id();
    assert!(signing.run(|| std::thread::current().id()).await.unwrap() != here);
    let answers = (0..100).map(|number| signing.run(move || number * 2));
    let answers: Vec<_> = futures::future::join_all(answers).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, (0..100).map(|number| number * 2).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_panic_costs_one_request() {
    let signing = Signing::with_threads(1);
    assert_eq!(signing.run(|| panic!("in a test")).await, Err::<(), _>(SigningError::Panicked));
    assert_eq!(signing.run(|| 1).await, Ok(1));
}

#[tokio::test]
async fn who_leaves_leaves_the_line_and_the_line_is_bounded() {
    let signing = Signing::with_threads(1);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let busy = tokio::spawn({
        let signing = signing.clone();
        async move { signing.run(move || begun.send(()).and_then(|()| wait.recv().map_err(drop))).await }
    });
    has_begun.await.unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let mut waiting = Vec::new();
    while waiting.len() < 2 * QUEUE {
        let done = done.clone();
        let mut request = Box::pin(signing.run(move || done.fetch_add(1, Ordering::SeqCst)));
        assert!(request.as_mut().now_or_never().is_none());
        waiting.push(request);
    }
    assert_eq!(signing.jobs.capacity(), 0, "the queue is full, and the rest waits outside");
    drop(waiting);
    go.send(()).unwrap();
    busy.await.unwrap().unwrap().unwrap();
    assert!(signing.run(|| ()).await.is_ok());
    assert_eq!(done.load(Ordering::SeqCst), 0, "nobody waits for the rest any more");
}

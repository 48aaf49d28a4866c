use std::os::unix::fs::symlink;
use std::path::Path;

use openssl::x509::X509;

use super::*;
use crate::ca::testing::*;

fn with_roots(files: &CaFiles, roots: &[&CaFiles]) -> CaBundle {
    let root: Vec<u8> = roots.iter().flat_map(|files| files.root.to_vec()).collect();
    CaBundle::verified(&CaFiles { root: root.into(), ..files.clone() }, now()).unwrap()
}

#[test]
fn a_root_that_nobody_knows_is_refused() {
    let (a, b) = (root(), root());
    let authority = Authority::new(with_roots(&a, &[&a]), AT_ONCE);
    let refusals = authority.refusals();
    let mut watched = Watched::default();
    let mut look = |files: &CaFiles| authority.look_at("here", Ok(Some(files.clone())), &mut watched, now());
    look(&b);
    assert!(authority.bundle().is_from(&a));
    assert_eq!(authority.rejected(), 1);
    let refused = |authority: &Authority| authority.report(now()).refused.map(|refusal| refusal.reason);
    assert!(refused(&authority).unwrap().contains("no workload has been told of any root"));
    assert!(refusals.has_changed().unwrap());
    look(&with_root_of(&a, &b));
    assert_eq!(refused(&authority), None, "what is good again is not complained of");
}

fn with_root_of(files: &CaFiles, other: &CaFiles) -> CaFiles {
    CaFiles { root: [files.root.as_ref(), other.root.as_ref()].concat().into(), ..files.clone() }
}

#[test]
fn what_is_not_valid_yet_is_taken_when_it_is() {
    let (a, b) = (root(), root());
    let authority = Authority::new(with_roots(&a, &[&a]), Pace::default());
    let (mut watched, day) = (Watched::default(), 24 * 3600);
    let mut look = |at| {
        authority.look_at("here", Ok(Some(with_root_of(&b, &a))), &mut watched, at);
        (authority.rejected(), authority.step(now()))
    };
    assert_eq!(look(later(-3 * day)), (1, Step::Settled));
    assert_eq!(look(later(-2 * day)), (1, Step::Settled), "it is not complained of again and again");
    assert_eq!(look(now()), (1, Step::Stage));
}

#[test]
fn the_end_of_all_signing_is_shown() {
    let authority = Authority::new(root_bundle(), Pace::default());
    authority.note_end(now());
    assert!(authority.report(now()).refused.is_none());
    let end = later(3651 * 24 * 3600);
    authority.note_end(end);
    let report = authority.report(end);
    assert!(report.refused.is_some_and(|refused| refused.reason.contains("nothing is signed")));
    assert!(report.explanation.contains("has ended at"), "{}", report.explanation);
}

#[test]
fn a_renewed_root_counts_as_the_same() {
    let old = root_bundle();
    let renewed = crate::ca::self_signed::renewed(&old, RootPolicy::default(), Timestamp::now()).unwrap();
    let authority = Authority::new(old, Pace::default());
    let mut changes = authority.subscribe();
    authority.replace(CaBundle::verified(&renewed, now()).unwrap(), now()).unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(changes.borrow_and_update().is_from(&renewed));
}

/// A directory the way Kubernetes projects a Secret: the names are links
/// through `..data`, which is replaced by a rename.
fn project(mount: &Path, version: &str, files: &CaFiles) {
    let data = mount.join(version);
    std::fs::create_dir_all(&data).unwrap();
    let contents = [
        ("ca-cert.pem", &files.cert),
        ("ca-key.pem", &files.key),
        ("cert-chain.pem", &files.chain),
        ("root-cert.pem", &files.root),
    ];
    for (name, content) in contents {
        std::fs::write(data.join(name), content).unwrap();
        let link = mount.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    symlink(version, mount.join("..data_tmp")).unwrap();
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
}

#[test]
fn a_directory_is_followed_and_bad_material_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let old = CaFiles::from_dir(&made("ec").path().join("cacerts")).unwrap().unwrap();
    let other = CaFiles::from_dir(&made("rsa").path().join("cacerts")).unwrap().unwrap();
    project(dir.path(), "1", &old);
    let authority = Authority::new(CaBundle::verified(&old, now()).unwrap(), Pace::default());
    let mut watched = Watched::default();
    let mut look = || {
        for _ in 0..3 {
            authority.look_at("here", CaFiles::from_dir(dir.path()), &mut watched, now());
        }
        (authority.newest().is_from(&old), authority.rejected())
    };

    assert_eq!(look(), (true, 0));
    project(dir.path(), "2", &CaFiles { key: other.key.clone(), ..old.clone() });
    assert_eq!(look(), (true, 1), "each bad version is reported once");
    project(dir.path(), "2, taken back", &old);
    assert_eq!(look(), (true, 1));
    assert!(authority.report(now()).refused.is_none(), "there is nothing to complain of any more");
    project(dir.path(), "3", &other);
    assert_eq!(look(), (true, 2), "nobody knows this root");

    let grown = CaFiles { root: [other.root.as_ref(), old.root.as_ref()].concat().into(), ..other.clone() };
    project(dir.path(), "4", &grown);
    assert_eq!(look(), (false, 2));

    std::fs::remove_file(dir.path().join("..data")).unwrap();
    assert_eq!(look(), (false, 3));
    assert!(authority.newest().is_from(&grown), "a vanished directory changes nothing");
    assert!(authority.bundle().is_from(&old), "the old issuer signs until everybody has the new root");
    authority.advance(later(25 * 3600)).unwrap();
    assert!(authority.bundle().is_from(&grown));
}

/// Every leaf must verify against the roots handed out with it, whatever is
/// swapped meanwhile.
#[test]
fn a_swap_never_mixes_two_bundles() {
    let (a, b) = (root(), root());
    let authority = Authority::new(with_roots(&a, &[&a, &b]), AT_ONCE);
    let parsed = crate::ca::csr::Csr::parse(&csr(&p256())).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..50 {
                authority.replace(with_roots(if i % 2 == 0 { &b } else { &a }, &[&a, &b]), now()).unwrap();
            }
        });
        for _ in 0..200 {
            let identity = id("spiffe://cluster.local/ns/a/sa/b");
            let chain = authority.bundle().workload_chain(&parsed, &identity, 0, Default::default(), now()).unwrap();
            verify(&chain, openssl::x509::X509PurposeId::SSL_CLIENT, now());
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_not_to_be_checked_is_left_alone() {
    let (authority, stop) = (Authority::new(root_bundle(), Pace::default()), CancellationToken::new());
    // Whoever looks finds a root without its key.
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir(state.path().join("ca")).unwrap();
    std::fs::write(state.path().join("ca/ca-cert.pem"), "x").unwrap();
    let store = crate::ca::root_store::DirectoryStore::new(state.path());
    let follow = |interval| authority.follow_store(&store, RootPolicy::default(), interval, stop.clone());
    let day = Duration::from_secs(24 * 3600);
    assert!(tokio::time::timeout(day, follow(Duration::ZERO)).await.is_err());
    assert_eq!(authority.rejected(), 0);
    assert!(tokio::time::timeout(day, follow(day / 10)).await.is_err());
    assert!(authority.rejected() > 0);
}

/// A process that starts while another's change is under way goes on with it.
#[tokio::test]
async fn a_change_goes_on_after_a_restart() {
    let (a, b) = (root(), root());
    let store = PreviousStore::Directory(tempfile::tempdir().unwrap().keep());
    let kept = async |authority: &Authority, at| {
        let previous = authority.lock().previous(authority.holders.last_end(), at).unwrap();
        store.keep(previous.as_ref()).await.unwrap();
    };
    let restarted = async |roots: &[&CaFiles], at| {
        let authority = Authority::new(with_roots(&b, roots), Pace::default());
        if let Some(previous) = store.load().await.unwrap() {
            assert!(authority.resume(&previous, at).unwrap());
        }
        authority
    };
    let pems =
        |roots: &[&CaFiles]| roots.iter().map(|files| std::str::from_utf8(&files.root).unwrap()).collect::<String>();
    let (day, signs_at) = (24 * 3600, 24 * 3600 + 400);

    let authority = Authority::new(with_roots(&a, &[&a]), Pace::default());
    authority.replace(with_roots(&b, &[&b, &a]), now()).unwrap();
    kept(&authority, now()).await;
    let authority = restarted(&[&b, &a], later(day)).await;
    assert_eq!(authority.step(later(day)), Step::Stage);
    assert_eq!(authority.bundle().certificate().to_der().unwrap(), X509::from_pem(&a.cert).unwrap().to_der().unwrap());
    authority.advance(later(signs_at)).unwrap();
    assert_eq!(authority.step(later(signs_at)), Step::Sign);
    assert!(authority.bundle().is_from(&b) || authority.bundle().same_files(&with_roots(&b, &[&b, &a])));
    kept(&authority, later(signs_at)).await;

    // The operator has taken the old root away.
    let authority = restarted(&[&b], later(signs_at + day)).await;
    assert_eq!(authority.step(later(signs_at + day)), Step::Sign);
    assert_eq!(**authority.bundle().root_pem(), pems(&[&b, &a]));
    authority.advance(later(signs_at + day + 400)).unwrap();
    assert_eq!(**authority.bundle().root_pem(), pems(&[&b]));

    // What was kept is about another issuer: the one that signs again.
    let authority = Authority::new(with_roots(&a, &[&a]), Pace::default());
    assert!(!authority.resume(&store.load().await.unwrap().unwrap(), later(0)).unwrap());
    assert_eq!(authority.step(later(0)), Step::Settled);
}

/// What a process noted that told `b` while `a` signed, with certificates until a
/// time.
fn noted(a: &CaFiles, b: &CaFiles, last_end: Timestamp) -> Previous {
    let mut handover = Handover::new(Arc::new(with_roots(a, &[a])), Pace::default(), now());
    handover.offer(with_roots(b, &[b, a]), last_end, now()).unwrap();
    handover.previous(last_end, now()).unwrap().unwrap()
}

#[test]
fn long_certificates_are_waited_for_after_a_restart_too() {
    let (a, b, day) = (root(), root(), 24 * 3600);
    let previous = noted(&a, &b, later(10 * day));
    let authority = Authority::new(with_roots(&b, &[&b, &a]), Pace::default());
    assert!(authority.resume(&previous, later(3 * day)).unwrap());
    assert_eq!(authority.step(later(3 * day)), Step::Stage);
    authority.advance(later(10 * day + 400)).unwrap();
    assert_eq!(authority.step(later(10 * day + 400)), Step::Sign);
    let previous = authority.lock().previous(later(40 * day), later(10 * day + 400)).unwrap().unwrap();
    // Restarted again, and the old root is in nobody's files any more.
    let authority = Authority::new(with_roots(&b, &[&b]), Pace::default());
    let at = later(11 * day + 200);
    assert!(authority.resume(&previous, at).unwrap());
    assert_eq!(authority.bundle().roots().len(), 2, "{at}");
}

#[test]
fn a_change_begins_before_the_one_before_has_come_to_its_end() {
    let (a, b, c) = (root(), root(), root());
    let authority = Authority::new(with_roots(&c, &[&c, &b]), Pace::default());
    assert!(authority.resume(&noted(&b, &c, Timestamp::MIN), now()).unwrap());
    let next = root_id(authority.newest().root()).unwrap();
    let state = State::Signed(a.root.clone(), later(-60));
    let signed = Previous { next, state, until: later(3600), ends: Timestamp::MIN };
    assert!(authority.resume(&signed, now()).unwrap());
    let bundle = authority.bundle();
    assert!(same_key(bundle.root(), &X509::from_pem(&b.root).unwrap()), "the issuer before signs");
    let told = [&a, &b, &c].map(|files| has(bundle.roots(), &X509::from_pem(&files.root).unwrap()));
    assert_eq!(told, [true; 3]);
    assert_eq!(authority.step(now()), Step::Stage);
}

/// Material that came while no process was there to see it.
#[test]
fn what_came_meanwhile_begins_its_steps_when_it_is_seen() {
    let (a, b, c) = (root(), root(), root());
    let previous = noted(&a, &b, Timestamp::MIN);
    let resumed = |newest: CaBundle| {
        let authority = Authority::new(newest, Pace::default());
        let used = authority.resume(&previous, now()).unwrap();
        (used, authority.step(now()), same_key(authority.bundle().root(), &X509::from_pem(&a.root).unwrap()))
    };
    assert_eq!(resumed(with_roots(&c, &[&c, &a])), (true, Step::Stage, true));
    assert_eq!(resumed(with_roots(&c, &[&c])), (false, Step::Settled, false), "another mesh");
    assert_eq!(resumed(with_roots(&a, &[&a])), (false, Step::Settled, true), "we are behind, or it was taken back");
    // An intermediate was renewed under the new root, which is no other step.
    let renewed = crate::ca::self_signed::renewed(&with_roots(&b, &[&b]), RootPolicy::default(), now()).unwrap();
    let renewed = CaFiles { root: [renewed.root.as_ref(), a.root.as_ref()].concat().into(), ..renewed };
    assert_eq!(resumed(CaBundle::verified(&renewed, now()).unwrap()), (true, Step::Stage, true));
}

#[test]
fn a_self_signed_root_is_followed_by_one_that_is_plugged_in() {
    let (own, plugged) = (root(), root());
    let told = own.root.clone();
    let follows = |roots: &[&CaFiles], told: &[u8]| {
        let authority = Authority::new(with_roots(&plugged, roots), Pace::default());
        if !authority.newest().introduces_root(told) {
            return None;
        }
        let before = authority.follows(&own, told, now()).expect("it signed");
        authority.resume(&before, now()).unwrap().then(|| authority.step(now()))
    };
    assert_eq!(follows(&[&plugged, &own], &told), Some(Step::Stage));
    assert_eq!(follows(&[&plugged], &told), None, "nothing in common: what was asked for is done at once");
    let both = [told.as_ref(), plugged.root.as_ref()].concat();
    assert_eq!(follows(&[&plugged, &own], &both), None, "everybody knows it");
    assert_eq!(follows(&[&plugged, &own], b""), None, "nobody has been told of anything");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_nobody_needs_any_more_is_removed() {
    let (a, b) = (root(), root());
    let store = PreviousStore::Directory(tempfile::tempdir().unwrap().keep());
    let old = Previous { until: later(-9), ends: later(-9), ..noted(&a, &b, Timestamp::MIN) };
    let State::Signs(files, _) = old.state else { panic!("it signs") };
    let old = Previous { state: State::Signs(files, later(-9)), ..old };
    for (pace, is_left) in [(Pace::default(), true), (AT_ONCE, false)] {
        store.keep(Some(&old)).await.unwrap();
        let authority = Authority::new(with_roots(&a, &[&a]), pace);
        let stop = CancellationToken::new();
        let keeping = authority.keep_previous(&store, Some((old.clone(), false)), stop.clone());
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            stop.cancel();
        };
        tokio::join!(keeping, stopping);
        assert_eq!(store.load().await.unwrap().is_some(), is_left);
    }
}

#[tokio::test(start_paused = true)]
async fn a_self_signed_root_is_left_alone_when_another_is_plugged_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::ca::root_store::DirectoryStore::new(dir.path());
    let own = store.create_if_absent(&root()).await.unwrap();
    let plugged = root();
    let authority = Authority::new(with_roots(&own, &[&own]), AT_ONCE);
    let hour = Duration::from_secs(3600);
    let following = authority.follow_store(&store, RootPolicy::default(), hour, CancellationToken::new());
    let plugging = async {
        tokio::time::sleep(hour / 2).await;
        authority.replace(with_roots(&plugged, &[&plugged, &own]), now()).unwrap();
    };
    // It ends by itself, and has changed nothing.
    tokio::time::timeout(2 * hour, async { tokio::join!(following, plugging) }).await.unwrap();
    assert!(authority.newest().same_files(&with_roots(&plugged, &[&plugged, &own])));
}

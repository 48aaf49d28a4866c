use super::*;
use crate::ca::files::CaFiles;
use crate::ca::testing::*;

/// A day and a little.
const WAIT: i64 = 24 * 3600 + 300;

fn bundle(signer: &CaFiles, roots: &[&CaFiles]) -> CaBundle {
    let root: Vec<u8> = roots.iter().flat_map(|files| files.root.to_vec()).collect();
    CaBundle::verified(&CaFiles { root: root.into(), ..signer.clone() }, now()).unwrap()
}

/// What signs and what is told, after steps at times.
struct Case<'a> {
    handover: Handover,
    /// By the letter that stands for it.
    known: &'a [(&'static str, &'a CaFiles)],
    last_end: Timestamp,
}

impl<'a> Case<'a> {
    fn new(known: &'a [(&'static str, &'a CaFiles)], signer: &CaFiles, roots: &[&CaFiles]) -> Self {
        let handover = Handover::new(Arc::new(bundle(signer, roots)), Pace::default(), now());
        Self { handover, known, last_end: Timestamp::MIN }
    }

    fn offer(&mut self, signer: &CaFiles, roots: &[&CaFiles], at: i64) -> Result<(), ReplaceError> {
        self.handover.offer(bundle(signer, roots), self.last_end, later(at))
    }

    /// `signer|roots told|step` after a time.
    fn at(&mut self, at: i64) -> String {
        self.handover.settle(self.last_end, later(at)).unwrap();
        let letter = |cert: &X509Ref| {
            let found = self.known.iter().find(|(_, files)| {
                files.root.as_ref() == cert.to_pem().unwrap() || files.cert.as_ref() == cert.to_pem().unwrap()
            });
            found.map_or("?", |(letter, _)| letter)
        };
        let current = self.handover.current();
        let told: String = current.roots().iter().map(|root| letter(root)).collect();
        let pem: String =
            current.roots().iter().map(|root| String::from_utf8(root.to_pem().unwrap()).unwrap()).collect();
        assert_eq!(pem, **current.root_pem());
        format!("{}|{told}|{}", letter(current.certificate()), self.handover.step(later(at)).name())
    }
}

#[test]
fn a_new_root_is_told_before_it_signs_and_the_old_one_until_its_last_certificate_ends() {
    let (a, b) = (root(), root());
    let known = [("a", &a), ("b", &b)];
    let mut case = Case::new(&known, &a, &[&a]);
    case.offer(&b, &[&b, &a], 0).unwrap();
    assert_eq!(case.at(0), "a|ba|STAGE");
    assert!(case.handover.explanation(later(0)).contains("the old issuer signs until"));
    assert_eq!(case.at(WAIT - 10), "a|ba|STAGE");
    assert_eq!(case.at(WAIT + 1), "b|ba|SIGN");
    // The operator is in a hurry.
    case.offer(&b, &[&b], WAIT + 2).unwrap();
    assert_eq!(case.at(2 * WAIT - 10), "b|ba|SIGN");
    assert_eq!(case.at(2 * WAIT + 2), "b|b|SETTLED");
}

#[test]
fn an_operator_may_take_the_steps() {
    let (a, b) = (root(), root());
    let known = [("a", &a), ("b", &b)];
    let mut case = Case::new(&known, &a, &[&a]);
    case.offer(&a, &[&a, &b], 0).unwrap();
    assert_eq!(case.at(0), "a|ab|SETTLED");
    case.offer(&b, &[&a, &b], 3600).unwrap();
    assert_eq!(case.at(3600), "a|ab|STAGE", "told for an hour only");
    assert_eq!(case.at(WAIT + 1), "b|ab|SIGN");
    assert_eq!(case.at(2 * WAIT + 2), "b|ab|RETIRE");
    case.offer(&b, &[&b], 2 * WAIT + 3).unwrap();
    assert_eq!(case.at(2 * WAIT + 3), "b|b|SETTLED");
}

#[test]
fn certificates_that_live_longer_are_waited_for() {
    let (a, b) = (root(), root());
    let known = [("a", &a), ("b", &b)];
    let mut case = Case::new(&known, &a, &[&a]);
    case.last_end = later(10 * WAIT);
    case.offer(&b, &[&b, &a], 0).unwrap();
    assert_eq!(case.at(9 * WAIT), "a|ba|STAGE");
    assert_eq!(case.at(10 * WAIT), "b|ba|SIGN");
}

#[test]
fn a_change_of_mind_while_staged_costs_nothing() {
    let (a, b) = (root(), root());
    let known = [("a", &a), ("b", &b)];
    let mut case = Case::new(&known, &a, &[&a]);
    case.offer(&b, &[&b, &a], 0).unwrap();
    assert_eq!(case.at(60), "a|ba|STAGE");
    case.offer(&a, &[&a], 61).unwrap();
    assert_eq!(case.at(61), "a|a|SETTLED");
}

#[test]
fn what_shares_no_root_is_refused() {
    let (a, b) = (root(), root());
    let known = [("a", &a), ("b", &b)];
    let mut case = Case::new(&known, &a, &[&a]);
    assert!(matches!(case.offer(&b, &[&b], 0), Err(ReplaceError::Roots)));
    assert_eq!(case.at(10 * WAIT), "a|a|SETTLED");
}

/// There is nothing better than a signer that half the mesh believes if the
/// other cannot sign any more.
#[test]
fn an_issuer_that_has_ended_is_followed_at_once() {
    let short = crate::ca::self_signed::RootPolicy { ttl: Duration::from_secs(3600), ..Default::default() };
    let a = crate::ca::self_signed::create(&trust_domain(), short, Timestamp::now()).unwrap();
    let b = root();
    let known = [("a", &a), ("b", &b)];
    let mut case = Case::new(&known, &a, &[&a]);
    case.offer(&b, &[&b, &a], 0).unwrap();
    assert_eq!(case.at(3500), "a|ba|STAGE");
    assert_eq!(case.at(3602), "b|ba|SIGN");
}

#[test]
fn an_issuer_that_ends_while_it_is_told_never_signs() {
    let short = crate::ca::self_signed::RootPolicy { ttl: Duration::from_secs(3600), ..Default::default() };
    let (a, b) = (root(), crate::ca::self_signed::create(&trust_domain(), short, Timestamp::now()).unwrap());
    let known = [("a", &a), ("b", &b)];
    let mut case = Case::new(&known, &a, &[&a]);
    case.offer(&b, &[&b, &a], 0).unwrap();
    assert_eq!(case.at(WAIT + 1), "a|ba|STAGE");
    let explanation = case.handover.explanation(later(WAIT + 1));
    assert!(explanation.contains("before it could sign"), "{explanation}");
}

#[test]
fn a_new_intermediate_signs_at_once() {
    let (made, again) = (made("ec"), CaFiles::from_dir(&made("ec").path().join("cacerts")).unwrap().unwrap());
    let old = CaFiles::from_dir(&made.path().join("cacerts")).unwrap().unwrap();
    let mut handover = Handover::new(Arc::new(CaBundle::verified(&old, now()).unwrap()), Pace::default(), now());
    // The same signer below the old root, as far as a peer can see.
    let renewed = CaFiles { crl: again.crl.or(Some(bytes("a list"))), ..old.clone() };
    handover.offer(CaBundle::verified(&renewed, now()).unwrap(), Timestamp::MIN, now()).unwrap();
    assert!(handover.current().is_from(&renewed));
    assert_eq!(handover.step(now()), Step::Settled);
}

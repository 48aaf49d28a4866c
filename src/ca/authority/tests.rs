use std::os::unix::fs::symlink;

use super::*;
use crate::ca::testing::*;

fn with_roots(files: &CaFiles, roots: &[&CaFiles]) -> CaBundle {
    let root: Vec<u8> = roots.iter().flat_map(|files| files.root.to_vec()).collect();
    CaBundle::verified(&CaFiles { root: root.into(), ..files.clone() }, now()).unwrap()
}

#[test]
fn a_root_that_is_trusted_now_must_stay() {
    let (a, b) = (root(), root());
    let authority = Authority::new(with_roots(&a, &[&a]), RootChange::Grow);
    assert!(matches!(authority.replace(with_roots(&b, &[&b])), Err(ReplaceError::Roots)));
    assert!(authority.bundle().is_from(&a));
    authority.replace(with_roots(&a, &[&a, &b])).unwrap();
    authority.replace(with_roots(&b, &[&a, &b])).unwrap();
    assert!(matches!(authority.replace(with_roots(&b, &[&b])), Err(ReplaceError::Roots)));
}

#[test]
fn a_multi_root_mesh_can_retire_one() {
    let (a, b, c) = (root(), root(), root());
    let authority = Authority::new(with_roots(&a, &[&a, &b]), RootChange::Overlap);
    authority.replace(with_roots(&b, &[&b])).unwrap();
    assert!(matches!(authority.replace(with_roots(&c, &[&c])), Err(ReplaceError::Roots)));
}

#[test]
fn a_renewed_root_counts_as_the_same() {
    let old = root_bundle();
    let renewed = crate::ca::self_signed::renewed(&old, RootPolicy::default(), Timestamp::now()).unwrap();
    let authority = Authority::new(old, RootChange::Grow);
    let mut changes = authority.subscribe();
    authority.replace(CaBundle::verified(&renewed, now()).unwrap()).unwrap();
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
    let authority = Authority::new(CaBundle::verified(&old, now()).unwrap(), RootChange::Grow);
    let mut seen = None;
    let mut look = || {
        for _ in 0..3 {
            authority.look_at(dir.path(), &mut seen, now());
        }
        (authority.bundle().is_from(&old), authority.rejected())
    };

    assert_eq!(look(), (true, 0));
    project(dir.path(), "2", &CaFiles { key: other.key.clone(), ..old.clone() });
    assert_eq!(look(), (true, 1), "each bad version is reported once");
    project(dir.path(), "3", &other);
    assert_eq!(look(), (true, 2), "these roots leave out the old one");

    let grown = CaFiles { root: [other.root.as_ref(), old.root.as_ref()].concat().into(), ..other.clone() };
    project(dir.path(), "4", &grown);
    assert_eq!(look(), (false, 2));

    std::fs::remove_file(dir.path().join("..data")).unwrap();
    assert_eq!(look(), (false, 3));
    assert!(authority.bundle().is_from(&grown), "a vanished directory changes nothing");
}

/// Every leaf must verify against the roots handed out with it, whatever is
/// swapped meanwhile.
#[test]
fn a_swap_never_mixes_two_bundles() {
    let (a, b) = (root(), root());
    let authority = Authority::new(with_roots(&a, &[&a, &b]), RootChange::Grow);
    let parsed = crate::ca::csr::Csr::parse(&csr(&p256())).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..50 {
                authority.replace(with_roots(if i % 2 == 0 { &b } else { &a }, &[&a, &b])).unwrap();
            }
        });
        for _ in 0..200 {
            let identity = id("spiffe://cluster.local/ns/a/sa/b");
            let chain = authority.bundle().workload_chain(&parsed, &identity, 0, Default::default(), now()).unwrap();
            verify(&chain, openssl::x509::X509PurposeId::SSL_CLIENT, now());
        }
    });
}

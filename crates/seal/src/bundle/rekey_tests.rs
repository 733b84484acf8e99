use super::{
    tests::{names_in, quiet, recipient},
    *,
};
use crate::{Identity, Recipient};
use std::{
    fs,
    path::{Path, PathBuf},
};

const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGehHa4LkohmuRE/U8g7i7xB9HASqCZRDocp2iJhrg+r";

/// A bundle to `members`, with content of several segments.
fn sealed(folder: &Path, members: &[Recipient]) -> PathBuf {
    let path = folder.join("b");
    let mut writer = BundleWriter::create(&path, members).unwrap();
    writer.add("a/weights", &mut &content()[..]).unwrap();
    writer.add("empty", &mut &b""[..]).unwrap();
    writer.finish().unwrap();
    path
}

fn content() -> Vec<u8> {
    (0..700_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn keys_of(members: &[Member]) -> Vec<&str> {
    members.iter().map(|m| &m.key[..]).collect()
}

/// The bundle opens and holds what it held.
fn holds(path: &Path, identity: &Identity) -> bool {
    let Ok(bundle) = Bundle::open(path, std::slice::from_ref(identity)) else { return false };
    bundle.verify(&mut quiet).unwrap();
    let mut out = vec![0; content().len()];
    bundle.file("a/weights").unwrap().read_exact_at(0, &mut out).unwrap();
    out == content()
}

fn change(add: &[Recipient], remove: &[&str]) -> Changes {
    Changes { add: add.to_vec(), remove: remove.iter().map(|&r| r.into()).collect(), remove_recovery: false }
}

#[test]
fn recipients_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = [Identity::generate(), Identity::generate()];
    let quantum = Identity::generate_post_quantum().unwrap();
    let path = sealed(folder.path(), &[recipient(&first), Recipient::parse(SSH).unwrap()]);
    let data = fs::read(path.join("data")).unwrap();
    let ssh = fs::read(path.join("keys/ssh.age")).unwrap();
    let first = std::slice::from_ref(&first);

    let members = rekey(&path, first, &change(&[recipient(&second), recipient(&quantum)], &[])).unwrap();
    assert_eq!(members.len(), 4);
    assert_eq!(Bundle::open(&path, first).unwrap().members(), members);
    assert!(holds(&path, &first[0]) && holds(&path, &second) && holds(&path, &quantum));
    assert_eq!(fs::read(path.join("keys/ssh.age")).unwrap(), ssh, "a class that did not change is kept as it was");

    let gone = first[0].recipient().unwrap();
    // An SSH key may be named with its comment.
    let members = rekey(&path, std::slice::from_ref(&second), &change(&[], &[&gone, &format!("{SSH} me@host")])).unwrap();
    assert_eq!(keys_of(&members), [second.recipient().unwrap(), quantum.recipient().unwrap()]);
    assert!(!holds(&path, &first[0]) && holds(&path, &second) && holds(&path, &quantum));
    assert_eq!(names_in(&path.join("keys")), ["mac", "mlkem768x25519.age", "recipients", "x25519.age"]);
    assert_eq!(fs::read(path.join("data")).unwrap(), data);
    assert_eq!(names_in(folder.path()), ["b"]);
}

#[test]
fn what_is_refused_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [owner, recovery] = [Identity::generate(), Identity::generate()];
    let path = sealed(folder.path(), &[recipient(&owner), recipient(&recovery).recovery(true)]);
    let (own, saved) = (owner.recipient().unwrap(), recovery.recipient().unwrap());
    let mac = fs::read(path.join("keys/mac")).unwrap();
    let owner = [owner];
    let refused = |identities: &[Identity], changes: Changes, part: &str| {
        let error = rekey(&path, identities, &changes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        let error = rotate(&path, identities, &changes, &mut quiet).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&owner, change(&[], &[SSH]), "none of its 2 recipients");
    refused(&owner, change(&[], &[&saved]), "for recovery");
    refused(&[Identity::generate()], change(&[], &[]), "none of the 1 identities");
    refused(&owner, Changes { remove_recovery: true, ..change(&[], &[&own, &saved]) }, "nobody would be left");
    assert_eq!(fs::read(path.join("keys/mac")).unwrap(), mac);
    assert_eq!(names_in(folder.path()), ["b"]);
    let members = rekey(&path, &owner, &Changes { remove_recovery: true, ..change(&[], &[&saved]) }).unwrap();
    assert_eq!(keys_of(&members), [own]);
}

#[test]
fn rotation_shuts_the_old_key_out() {
    let folder = tempfile::tempdir().unwrap();
    let [stays, goes] = [Identity::generate(), Identity::generate()];
    let path = sealed(folder.path(), &[recipient(&stays), recipient(&goes)]);
    let before = Bundle::open(&path, std::slice::from_ref(&stays)).unwrap();
    let old_keys: Vec<_> = ["mac", "recipients", "x25519.age"].map(|f| (f, fs::read(path.join("keys").join(f)).unwrap())).into();
    let mut last = (0, 0);
    let changes = change(&[], &[&goes.recipient().unwrap()]);
    rotate(&path, std::slice::from_ref(&stays), &changes, &mut |done, total| last = (done, total)).unwrap();
    assert_eq!(last, (700_000, 700_000));
    let after = Bundle::open(&path, std::slice::from_ref(&stays)).unwrap();
    assert_eq!((before.epoch(), after.epoch()), (1, 2));
    assert_ne!(before.id(), after.id());
    assert!(holds(&path, &stays) && !holds(&path, &goes));
    assert_eq!(names_in(folder.path()), ["b"]);
    // What was open stays readable, for it is the old bundle's file.
    before.verify(&mut quiet).unwrap();
    // The old key files unwrap the old content key, which opens nothing now.
    old_keys.iter().for_each(|(name, bytes)| fs::write(path.join("keys").join(name), bytes).unwrap());
    assert!(!holds(&path, &goes) && !holds(&path, &stays));
}

#[test]
fn a_passphrase_is_kept_by_rekey_and_asked_for_by_rotate() {
    let folder = tempfile::tempdir().unwrap();
    let owner = [Identity::generate()];
    let word = |text: &str| Recipient::passphrase(text.into());
    let path = sealed(folder.path(), &[recipient(&owner[0]), word("old")]);
    let file = || fs::read(path.join("keys/passphrase.age")).unwrap();
    let before = file();
    rekey(&path, &owner, &change(&[Recipient::parse(SSH).unwrap()], &[])).unwrap();
    assert_eq!(file(), before);
    let error = rotate(&path, &owner, &change(&[], &[]), &mut quiet).unwrap_err().to_string();
    assert!(error.contains("passphrase is not kept"), "{error}");
    assert!(rekey(&path, &owner, &change(&[word("new")], &[])).is_err());
    rekey(&path, &owner, &change(&[word("new")], &["passphrase"])).unwrap();
    assert!(file() != before && holds(&path, &Identity::passphrase("new".into())));
    assert!(BundleWriter::create(&folder.path().join("two"), &[word("a"), word("b")]).is_err());
}

#[test]
fn an_older_epoch_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (key, aside) = (folder.path().join("key"), folder.path().join("aside"));
    Identity::generate().write(&key).unwrap();
    let read = || Identity::read(&key).unwrap();
    let path = sealed(folder.path(), &[recipient(&read()[0])]);
    Bundle::open(&path, &read()).unwrap();
    copy(&path, &aside);
    rotate(&path, &read(), &Changes::default(), &mut quiet).unwrap();
    Bundle::open(&path, &read()).unwrap();
    let error = Bundle::open(&aside, &read()).err().unwrap();
    assert!(matches!(error, BundleError::Rollback { epoch: 1, seen: 2, .. }), "{error}");
    assert!(rekey(&aside, &read(), &Changes::default()).is_err());
    let lenient: Vec<_> = read().into_iter().map(Identity::allowing_rollback).collect();
    assert_eq!(Bundle::open(&aside, &lenient).unwrap().epoch(), 1);
    assert!(Bundle::open(&aside, &read()).is_err(), "the floor stays");
    fs::write(folder.path().join("key.seen"), "nonsense").unwrap();
    assert!(matches!(Bundle::open(&path, &read()), Err(BundleError::Io { .. })));
}

#[test]
fn what_a_killed_run_left_is_removed_and_what_a_running_one_holds_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let owner = [Identity::generate()];
    let path = sealed(folder.path(), &[recipient(&owner[0])]);
    for left in [".b.0123abcd.tmp/keys", ".b.0123abcd.tmp.old", ".b.nothexad.tmp", ".c.0123abcd.tmp"] {
        fs::create_dir_all(folder.path().join(left)).unwrap();
    }
    let other = unfinished::Unfinished::beside(&path).unwrap();
    rekey(&path, &owner, &Changes::default()).unwrap();
    assert!(other.path().is_dir());
    drop(other);
    assert_eq!(names_in(folder.path()), [".b.0123abcd.tmp.old", ".b.nothexad.tmp", ".c.0123abcd.tmp", "b"]);
    let lock = fs::File::open(&path).unwrap();
    lock.try_lock().unwrap();
    assert!(matches!(rekey(&path, &owner, &Changes::default()), Err(BundleError::Busy(_))));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

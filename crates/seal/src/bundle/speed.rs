//! Speed beside `cp` and `age`: `cargo test --release -p coffer-seal -- --ignored --nocapture speed`.
//! `COFFER_MB` sets the size, `COFFER_DIR` the place (a folder in memory shows what the disk hides).

use super::{
    Bundle, seal_path,
    tests::{quiet, recipient},
};
use crate::{Identity, floe};
use std::{fs, io::Write, process::Command};

#[test]
#[ignore = "measures, does not check"]
fn speed() {
    let megabytes: usize = std::env::var("COFFER_MB").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let place = std::env::var_os("COFFER_DIR").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(place).unwrap();
    let (source, bundle, identity) = (folder.path().join("s"), folder.path().join("b"), Identity::generate());
    let block: Vec<u8> = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut file = fs::File::create(&source).unwrap();
    (0..megabytes).for_each(|_| file.write_all(&block).unwrap());
    file.sync_all().unwrap();
    let timed = |what: &str, job: &mut dyn FnMut()| {
        let (start, cpu) = (std::time::Instant::now(), cpu_seconds());
        job();
        let (seconds, cpu, gigabytes) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu, megabytes as f64 / 1000.0);
        println!("{what}: {seconds:.2} s ({:.2} GB/s), {cpu:.2} s of CPU ({:.2} GB/s)", gigabytes / seconds, gigabytes / cpu);
    };
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).current_dir(folder.path()).status().unwrap().success())
    };
    identity.write(&folder.path().join("key")).unwrap();
    let to = identity.recipient().unwrap();
    for round in 0..2 {
        println!("round {round}");
        timed("cp", &mut || run("cp", &["s", "copy"]));
        timed("sync", &mut || run("sync", &["copy"]));
        timed("age -r", &mut || run("age", &["-r", &to, "-o", "s.age", "s"]));
        timed("age -d", &mut || run("age", &["-d", "-i", "key", "-o", "copy", "s.age"]));
        timed("seal", &mut || seal_path(&source, &bundle, &[recipient(&identity)], &mut quiet).unwrap());
        let opened = Bundle::open(&bundle, std::slice::from_ref(&identity)).unwrap();
        timed("open", &mut || opened.extract(&folder.path().join("out"), &mut quiet).unwrap());
        let whole = opened.file("s").unwrap();
        let mut chunk = vec![0; 8 << 20];
        timed("read 8 MiB at a time", &mut || {
            (0..whole.len() / chunk.len() as u64).for_each(|i| whole.read_exact_at(i * chunk.len() as u64, &mut chunk).unwrap());
        });
        timed("verify", &mut || opened.verify(&mut quiet).unwrap());
        fs::remove_dir_all(&bundle).unwrap();
        fs::remove_dir_all(folder.path().join("out")).unwrap();
        fs::remove_file(folder.path().join("copy")).unwrap();
        fs::remove_file(folder.path().join("s.age")).unwrap();
    }
}

/// One core, no files.
#[test]
#[ignore = "measures, does not check"]
fn speed_of_streams() {
    let plain = vec![5; 64 << 20];
    for segment_len in [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
        let (cipher, _) = floe::Cipher::start(&[1; 32], b"", segment_len).unwrap();
        let mut sealed = vec![0; cipher.segment_len()];
        let mut opened = vec![0; cipher.plain_len()];
        let rounds = 4_000_000_000 / cipher.plain_len() as u64;
        let cpu = cpu_seconds();
        (0..rounds).for_each(|i| cipher.seal(i, false, &plain[..cipher.plain_len()], &mut sealed).unwrap());
        let sealing = cpu_seconds() - cpu;
        cipher.seal(0, false, &plain[..cipher.plain_len()], &mut sealed).unwrap();
        let cpu = cpu_seconds();
        (0..rounds).for_each(|_| cipher.open_segment(0, false, &sealed, &mut opened).unwrap());
        let opening = cpu_seconds() - cpu;
        println!("segments of {segment_len}: seal {:.1} GB/s, open {:.1} GB/s of CPU time", 4.0 / sealing, 4.0 / opening);
    }
}

/// Of this process and the children that it waited for (proc(5): utime, stime, cutime, cstime in hundredths).
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().skip(11).take(4).map(|n| n.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

//! The build of the package, and the package as a file.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::machine::source;
use crate::support::skip;

/// Everything in the package but its directories and what is below `/usr/share/doc`. Units are where
/// debhelper puts them: below `/lib` or below `/usr/lib`, which is one directory on a merged `/usr`.
const FILES: [&str; 18] = [
    "/etc/default/nkv",
    "/usr/bin/nkv-client",
    "/usr/bin/nkv-server",
    "/usr/lib/systemd/system/nkv-metrics.service",
    "/usr/lib/systemd/system/nkv-metrics.timer",
    "/usr/lib/systemd/system/nkv.service",
    "/usr/lib/systemd/system/nkv.socket",
    "/usr/lib/sysusers.d/nkv.conf",
    "/usr/share/bash-completion/completions/nkv-client",
    "/usr/share/bash-completion/completions/nkv-server",
    "/usr/share/fish/vendor_completions.d/nkv-client.fish",
    "/usr/share/fish/vendor_completions.d/nkv-server.fish",
    "/usr/share/man/man1/nkv-client.1.gz",
    "/usr/share/man/man1/nkv-server.1.gz",
    "/usr/share/man/man7/nkv.7.gz",
    "/usr/share/zsh/vendor-completions/_nkv-client",
    "/usr/share/zsh/vendor-completions/_nkv-server",
    "/usr/share/lintian/overrides/nkv",
];

/// Some of what is below `/usr/share/doc/nkv`.
const DOCUMENTS: [&str; 6] = [
    "README.Debian",
    "README.md.gz",
    "changelog.gz",
    "copyright",
    "crates.txt.gz",
    "protocol.md.gz",
];

/// Builds the package and returns where it is; none where that can't be done here, which has then
/// been said. Once built it stays as it is while this process runs: a lock keeps others from
/// building it anew.
pub(crate) fn built() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<(File, PathBuf)>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("deb.lock")).unwrap();
        lock.lock().unwrap();
        can_build().then(|| (lock, build()))
    });
    if built.is_none() {
        skip("dpkg-dev or debhelper are missing");
    }
    built.as_ref().map(|(_, path)| path.as_path())
}

fn build() -> PathBuf {
    let output = Command::new(source("packaging/deb")).output().unwrap();
    let path = PathBuf::from(success(&output).trim());
    assert!(path.exists(), "{}", path.display());
    path
}

/// The same package with another version, in this directory.
pub(crate) fn with_version(package: &Path, version: &str, directory: &Path) -> PathBuf {
    let (tree, result) = (
        directory.join("tree"),
        directory.join(format!("{version}.deb")),
    );
    let dpkg_deb = |mode: &str, from: &Path, to: &Path| {
        let output = Command::new("dpkg-deb").arg(mode).args([from, to]).output();
        success(&output.unwrap());
    };
    dpkg_deb("--raw-extract", package, &tree);
    let control = fs::read_to_string(tree.join("DEBIAN/control")).unwrap();
    let lines = control.lines().map(|line| match line.split_once(": ") {
        Some(("Version", _)) => format!("Version: {version}\n"),
        _ => format!("{line}\n"),
    });
    fs::write(tree.join("DEBIAN/control"), lines.collect::<String>()).unwrap();
    dpkg_deb("--build", &tree, &result);
    fs::remove_dir_all(&tree).unwrap();
    result
}

/// What a program has said that must have succeeded.
fn success(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn can_build() -> bool {
    ["dpkg-buildpackage", "dh_installsysusers"]
        .into_iter()
        .all(is_there)
}

/// Whether there is such a program. Those of debhelper can't be asked for their version.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

#[test]
fn lintian_finds_nothing() {
    if !is_there("lintian") {
        skip("lintian is missing");
        return;
    }
    let Some(package) = built() else { return };
    let output = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning"])
        .arg(package.with_extension("changes"))
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{found}");
    assert_eq!(found, "");
}

#[test]
fn files_are_where_they_belong() {
    let Some(package) = built() else { return };
    let list = |arguments: &[&str]| {
        let output = Command::new("dpkg-deb")
            .args(arguments)
            .arg(package)
            .output();
        success(&output.unwrap())
    };
    let contents = list(&["--contents"]);
    let paths = contents
        .lines()
        .map(|line| line.rsplit_once(" .").unwrap().1);
    let (documents, mut files): (Vec<String>, Vec<String>) = paths
        .filter(|path| !path.ends_with('/'))
        .map(|path| match path.strip_prefix("/lib/") {
            Some(rest) => format!("/usr/lib/{rest}"),
            None => path.to_owned(),
        })
        .partition(|path| path.starts_with("/usr/share/doc/nkv/"));
    let mut wanted = FILES;
    files.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(files, wanted);
    for name in DOCUMENTS {
        let path = format!("/usr/share/doc/nkv/{name}");
        assert!(documents.contains(&path), "{path}: {documents:?}");
    }
    let conffiles = Command::new("dpkg-deb")
        .arg("--info")
        .arg(package)
        .arg("conffiles")
        .output();
    assert_eq!(success(&conffiles.unwrap()), "/etc/default/nkv\n");
}

/// The version is Cargo.toml's, with the package's own number after it.
#[test]
fn version_is_that_of_the_crate() {
    let changelog = fs::read_to_string(source("packaging/debian/changelog")).unwrap();
    let version = changelog.split(['(', ')']).nth(1).unwrap();
    let (upstream, _) = version.rsplit_once('-').unwrap();
    assert_eq!(upstream, env!("CARGO_PKG_VERSION"));
    let Some(package) = built() else { return };
    let name = package.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&format!("nkv_{version}_")), "{name}");
}

/// What makes no package, and says why: a changelog at another version than the crate.
#[test]
fn another_version_is_refused() {
    if !can_build() {
        skip("dpkg-dev or debhelper are missing");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .args([
            "-r",
            "Cargo.toml",
            "Cargo.lock",
            "src",
            "benches",
            "tests",
            "packaging",
        ])
        .arg(directory.path())
        .current_dir(source(""))
        .output();
    success(&copied.unwrap());
    let changelog = directory.path().join("packaging/debian/changelog");
    let text = fs::read_to_string(&changelog).unwrap();
    fs::write(&changelog, text.replacen('(', "(9.", 1)).unwrap();
    let output = Command::new(directory.path().join("packaging/deb"))
        .output()
        .unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let wanted = format!("changelog is at 9.{version}, Cargo.toml at {version}\n");
    assert!(complaint.ends_with(&wanted), "{complaint}");
    assert_eq!(output.status.code(), Some(1));
}

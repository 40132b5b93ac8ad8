//! A file system made for one directory of a test, with little room.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::support::skip;

/// A file system of its own that is soon full.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// None where this user may not mount anything.
    pub(crate) fn mount(path: PathBuf) -> Option<SmallDisk> {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k,mode=700", "none"]);
        let output = mount.arg(&path).output().unwrap();
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            skip(&format!("nothing can be mounted: {reason}"));
            return None;
        }
        Some(SmallDisk { path })
    }

    pub(crate) fn fill(&self) {
        let mut filler = fs::File::create(self.path.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
    }

    pub(crate) fn make_read_only(&self, read_only: bool) {
        let how = if read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", how]).arg(&self.path).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        // Lazily: a daemon may use it still, where a test has failed.
        let status = unmount.arg("-l").arg(&self.path).status();
        assert!(status.unwrap().success() || std::thread::panicking());
    }
}

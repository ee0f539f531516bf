use super::Spawner;
use crate::{ExitStatus, Mount, Root, Source, Spec, Stdio};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// Overlays through mount(2), as on kernels before `lowerdir+`; needs root.
#[test]
fn the_classic_overlay_interface_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let base = make("base:with,odd\\name");
    for sub in ["bin", "dev", "proc", "sys"] {
        fs::create_dir(base.join(sub)).unwrap();
    }
    fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
    symlink("busybox", base.join("bin/sh")).unwrap();
    let lower: Vec<PathBuf> = (0..40)
        .map(|i| {
            let layer = make(&format!("l{i}"));
            fs::write(layer.join(format!("f{i}")), "").unwrap();
            layer
        })
        .chain([base])
        .collect();
    let mut spawner = Spawner::new().unwrap();
    for classic in [false, true] {
        let mut cgroup = "";
        if classic {
            spawner.use_classic_overlay();
            spawner.use_unified_cgroup();
            cgroup = "; read x < /sys/fs/cgroup/cgroup.controllers || [ -e /sys/fs/cgroup/cgroup.procs ]";
        }
        let (upper, work) = (make(&format!("u{classic}")), make(&format!("w{classic}")));
        let root = Root::new(Source::Overlay {
            lower: lower.clone(),
            upper: upper.clone(),
            work,
        });
        let script = "set -e; cd /; set -- f*; [ $# = 40 ]; set -- m/f*; [ $# = 2 ]; set -- b/*; \
                      [ $# = 2 ]; echo x > /made; if echo x > /m/no; then exit 1; fi";
        let mut spec = Spec::new(root, ["/bin/sh", "-c", &format!("{script}{cgroup}")]);
        let two = || Source::ReadOnlyOverlay {
            lower: lower[..2].to_vec(),
        };
        spec.mounts = vec![
            Mount::new("/m", two()),
            Mount::new(
                "/b",
                Source::ReadOnlyOverlay {
                    lower: lower[39..].to_vec(),
                },
            )
            .selector("bin"),
        ];
        spec.env = vec!["PATH=/bin".into()];
        let child = spawner.spawn(spec, Stdio::default()).unwrap();
        assert_eq!(child.wait(), ExitStatus::Exited(0), "classic: {classic}");
        assert!(upper.join("made").exists());
    }
}

//! Overlay mounts: options for both of the kernel's interfaces.
//!
//! Owns: turning layer directories into `fsconfig` parameters (`lowerdir+`, up to 500 layers) and,
//! for kernels without it, into one option string of at most a page. Both use names relative to
//! the directory that the layers share, so that they stay short.

use crate::plan::{Object, Parameter};
use crate::setup::mount_api::ParameterKind;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The kernel's limit on lower directories.
pub(crate) const MAX_LOWER: usize = 500;

/// mount(2) copies one page of options, the terminator included.
const MAX_OPTIONS: usize = 4095;

/// `fsconfig` takes strings of at most 255 bytes.
const MAX_PARAMETER: usize = 255;

/// A prepared overlay mount.
pub(crate) struct OverlayPlan {
    pub(crate) lower_count: usize,
    /// The names below are relative to this directory.
    pub(crate) base: CString,
    /// For `fsconfig`, lower directories first; empty if a name is too long for it.
    pub(crate) parameters: Vec<Parameter>,
    /// For mount(2); `None` if it does not fit.
    pub(crate) options: Option<CString>,
}

/// The writable part of an overlay.
pub(crate) struct Writable<'a> {
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
}

/// Prepares a mount of `lower` (topmost first) below `writable`. `object` gives out the number
/// under which an error names a path.
pub(crate) fn plan(
    lower: &[PathBuf],
    writable: Option<&Writable<'_>>,
    user_namespace: bool,
    mut object: impl FnMut(&Path) -> Object,
) -> OverlayPlan {
    let dirs = writable.iter().flat_map(|w| [w.upper, w.work]);
    let base = common_ancestor(lower.iter().map(PathBuf::as_path).chain(dirs));
    let relative = |path: &Path| -> OsString {
        match path.strip_prefix(&base) {
            Ok(rest) if !rest.as_os_str().is_empty() => rest.as_os_str().to_owned(),
            _ => OsString::from("."),
        }
    };

    let mut parameters = Vec::with_capacity(lower.len() + 9);
    let mut options = Vec::from(b"lowerdir=");
    for (i, path) in lower.iter().enumerate() {
        let name = relative(path);
        if i > 0 {
            options.push(b':');
        }
        options.extend(escape(&name, b"\\,:"));
        parameters.push(string(c"lowerdir+", name.into_vec(), object(path)));
    }
    let mut flags = vec![
        ("redirect_dir", Some("nofollow")),
        ("metacopy", Some("off")),
        ("index", Some("off")),
        ("xino", Some("off")),
    ];
    if let Some(writable) = writable {
        for (key, path) in [(c"upperdir", writable.upper), (c"workdir", writable.work)] {
            let name = relative(path);
            options.push(b',');
            options.extend(key.to_bytes());
            options.push(b'=');
            options.extend(escape(&name, b"\\,:"));
            parameters.push(string(key, escape(&name, b"\\"), object(path)));
        }
        flags.push(("volatile", None));
    }
    if user_namespace {
        flags.push(("userxattr", None));
    }
    for (key, value) in flags {
        options.push(b',');
        options.extend(key.as_bytes());
        let key = CString::new(key).expect("BUG: option names hold no zero byte");
        match value {
            Some(value) => {
                options.push(b'=');
                options.extend(value.as_bytes());
                parameters.push(string(&key, value.as_bytes().to_vec(), 0));
            }
            None => parameters.push(Parameter {
                kind: ParameterKind::Flag,
                key,
                value: None,
                object: 0,
            }),
        }
    }
    let fits = |p: &Parameter| {
        p.value
            .as_ref()
            .is_none_or(|v| v.as_bytes().len() <= MAX_PARAMETER)
    };
    if !parameters.iter().all(fits) {
        parameters.clear();
    }
    OverlayPlan {
        lower_count: lower.len(),
        base: c_string(base.as_os_str().as_bytes().to_vec()),
        parameters,
        options: (options.len() <= MAX_OPTIONS).then(|| c_string(options)),
    }
}

fn c_string(bytes: Vec<u8>) -> CString {
    CString::new(bytes).expect("BUG: paths are checked for zero bytes before")
}

fn string(key: &std::ffi::CStr, value: Vec<u8>, object: Object) -> Parameter {
    Parameter {
        kind: ParameterKind::String,
        key: key.to_owned(),
        value: Some(c_string(value)),
        object,
    }
}

fn escape(name: &OsStr, special: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for &byte in name.as_bytes() {
        if special.contains(&byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}

fn common_ancestor<'a>(mut paths: impl Iterator<Item = &'a Path>) -> PathBuf {
    let mut base = paths
        .next()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/"))
        .to_owned();
    for path in paths {
        while !path.starts_with(&base) {
            if !base.pop() {
                return PathBuf::from("/");
            }
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::{Writable, common_ancestor, plan};
    use std::path::{Path, PathBuf};

    fn options(lower: &[&str], upper: Option<&str>, user: bool) -> (String, String) {
        let lower: Vec<PathBuf> = lower.iter().map(PathBuf::from).collect();
        let work = upper.map(|u| Path::new(u).with_file_name("w"));
        let writable = upper.zip(work.as_deref()).map(|(u, work)| Writable {
            upper: Path::new(u),
            work,
        });
        let made = plan(&lower, writable.as_ref(), user, |_| 0);
        let text = |c: &std::ffi::CStr| c.to_str().unwrap().to_owned();
        (text(&made.base), text(&made.options.unwrap()))
    }

    #[test]
    fn names_are_relative_to_what_the_layers_share() {
        let (base, text) = options(&["/s/layers/b", "/s/layers/a"], Some("/s/w/1/u"), false);
        assert_eq!(base, "/s");
        assert_eq!(
            text,
            "lowerdir=layers/b:layers/a,upperdir=w/1/u,workdir=w/1/w,redirect_dir=nofollow,\
             metacopy=off,index=off,xino=off,volatile"
        );
        let (base, text) = options(&["/s/b", "/s/a"], None, true);
        assert_eq!(base, "/s");
        assert_eq!(
            text,
            "lowerdir=b:a,redirect_dir=nofollow,metacopy=off,index=off,xino=off,userxattr"
        );
    }

    #[test]
    fn special_characters_are_escaped() {
        let (_, text) = options(&["/s/a:b,c\\d", "/s/x"], None, false);
        assert!(text.starts_with("lowerdir=a\\:b\\,c\\\\d:x,"), "{text}");
    }

    #[test]
    fn too_many_layers_do_not_fit_the_classic_interface() {
        let lower: Vec<PathBuf> = (0..400)
            .map(|i| format!("/layers/{i:016}").into())
            .collect();
        let made = plan(&lower, None, false, |_| 0);
        assert!(made.options.is_none());
        assert_eq!(made.parameters.len(), 404);
    }

    #[test]
    fn the_common_ancestor_is_a_directory_above_all() {
        let of = |paths: &[&'static str]| {
            common_ancestor(paths.iter().map(Path::new))
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(of(&["/a/b/c", "/a/b/d"]), "/a/b");
        assert_eq!(of(&["/a/b", "/ab/b"]), "/");
        assert_eq!(of(&["/a/b", "/a/b/c"]), "/a");
    }
}

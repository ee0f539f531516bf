//! Makes the mounts: sources first, as detached mounts, then the root, then everything below it.
//!
//! Sources are prepared while the host's tree is still visible; the new root then becomes `/`
//! and the host's tree is gone before the first mount point is touched.

use super::mount_api::{self as api, ParameterKind};
use super::walk::{Create, Walker};
use super::{At, Failed};
use crate::Step;
use crate::overlay::OverlayPlan;
use crate::plan::{
    Object, Parameter, Plan, PlannedMount, PlannedSource, REFUSED, TOO_MANY_LAYERS, TargetRule,
};
use crate::sys;
use std::ffi::{CStr, c_int};

type Done = Result<(), Failed>;

/// [`crate::INNER_ROOT`], and where its `/proc` is.
const INNER: &CStr = c"/dev/inner";
const INNER_PROC: &CStr = c"/dev/inner/proc";

const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// A character device that every sandbox has: name, path on the host, major, minor.
const NODES: [(&CStr, &CStr, u32, u32); 6] = [
    (c"null", c"/dev/null", 1, 3),
    (c"zero", c"/dev/zero", 1, 5),
    (c"full", c"/dev/full", 1, 7),
    (c"random", c"/dev/random", 1, 8),
    (c"urandom", c"/dev/urandom", 1, 9),
    (c"tty", c"/dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

const KCORE: &CStr = c"/proc/kcore";

/// Detached mounts that are made before the host's tree goes away.
pub(super) struct Parts {
    /// Device nodes of the host, where the process may make none itself.
    borrowed: Option<[c_int; NODES.len()]>,
    /// The null device, once it is attached.
    null: c_int,
    /// An empty directory, for masking.
    empty: c_int,
    empty_is_attached: bool,
}

/// Makes every source as a detached mount and enters the new root.
pub(super) fn enter_root(plan: &mut Plan, walker: &mut Walker) -> Result<Parts, Failed> {
    api::make_all_private().at(Step::Propagation, 0)?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let old = sys::open_at(libc::AT_FDCWD, c"/", flags, 0).at(Step::PivotRoot, 0)?;
    let scratch = scratch().at(Step::Scratch, 0)?;
    let parts = parts(scratch, plan.id_map.is_some())?;
    let classic = plan.classic_overlay;
    for mount in &mut plan.mounts {
        mount.fd = prepare(mount, scratch, classic, false)?;
    }
    if let Some(inner) = &mut plan.inner {
        for mount in std::iter::once(&mut inner.root).chain(&mut inner.mounts) {
            mount.fd = prepare(mount, scratch, classic, false)?;
        }
    }
    // The root comes last: it may already be attached, above everything else.
    let root = prepare(&plan.root, scratch, classic, true)?;
    sys::fchdir(root).at(Step::PivotRoot, plan.root.source_object)?;
    let id = sys::stat(root).at(Step::PivotRoot, 0)?.mount;
    api::pivot_into_current(id, old).at(Step::PivotRoot, plan.root.source_object)?;
    sys::close(old);
    // With an inner root, what is made in the outer one is nobody's business.
    walker.enter_root(root, if plan.inner.is_some() { 0 } else { id });
    plan.root.fd = root;
    Ok(parts)
}

/// A private memory file system, attached above `/` where no path leads to it: mounting onto the
/// root directory of a process does not change what its paths mean.
fn scratch() -> sys::Result<c_int> {
    let context = api::fsopen(c"tmpfs")?;
    api::configure(context, ParameterKind::String, c"mode", Some(c"755"))?;
    // It may hold secrets. Older kernels and user namespaces do not offer it.
    let _ = api::configure(context, ParameterKind::Flag, c"noswap", None);
    api::create(context)?;
    let mount = api::fsmount(context, api::ATTR_NOSUID)?;
    sys::close(context);
    api::attach_at(mount, libc::AT_FDCWD, c"/")?;
    Ok(mount)
}

fn parts(scratch: c_int, user_namespace: bool) -> Result<Parts, Failed> {
    sys::mkdir_at(scratch, c"empty", 0o555).at(Step::Scratch, 0)?;
    let empty = api::clone_tree(scratch, c"empty").at(Step::Scratch, 0)?;
    let attributes = api::ATTR_RDONLY | api::ATTR_NODEV | api::ATTR_NOSUID | api::ATTR_NOEXEC;
    api::set_attributes(empty, attributes, false).at(Step::Scratch, 0)?;
    let mut borrowed = None;
    if user_namespace {
        let nodes = borrowed.insert([-1; NODES.len()]);
        for (slot, &(_, path, major, minor)) in nodes.iter_mut().zip(&NODES) {
            *slot = device(path, Some((major, minor))).at(Step::Devices, 0)?;
        }
    }
    Ok(Parts {
        borrowed,
        null: -1,
        empty,
        empty_is_attached: false,
    })
}

/// A detached mount of a device node of the host.
fn device(path: &CStr, number: Option<(u32, u32)>) -> sys::Result<c_int> {
    let node = api::clone_tree(libc::AT_FDCWD, path)?;
    let stat = sys::stat(node)?;
    let expected = number.is_none_or(|n| stat.is(libc::S_IFCHR) && stat.device == n);
    if !expected || !(stat.is(libc::S_IFCHR) || stat.is(libc::S_IFBLK)) {
        return Err(libc::ENODEV);
    }
    Ok(node)
}

/// Makes the source of a mount. `attach`: the mount is the root and has to end up attached.
fn prepare(
    mount: &PlannedMount,
    scratch: c_int,
    classic: bool,
    attach: bool,
) -> Result<c_int, Failed> {
    let object = mount.source_object;
    let attributes = mount.attributes;
    // What a selector needs has to be attached first; what the kernel mounts the old way is.
    let (fd, attached) = match &mount.source {
        PlannedSource::Overlay(overlay) => overlay_mount(overlay, attributes, object, classic)?,
        PlannedSource::Clone { path } => {
            let source = match &mount.selector {
                Some(_) => sys::open_at(libc::AT_FDCWD, path, libc::O_PATH, 0),
                None => api::clone_tree(libc::AT_FDCWD, path),
            };
            (source.at(Step::Source, object)?, mount.selector.is_some())
        }
        PlannedSource::Device { path } => (device(path, None).at(Step::Source, object)?, false),
        PlannedSource::Node {
            name,
            mode,
            device,
            uid,
            gid,
        } => {
            let made = node(scratch, name, (*mode, *device), (*uid, *gid));
            (made.at(Step::Devices, object)?, false)
        }
        PlannedSource::FileSystem { kind, parameters } => {
            // What is to get another mode or nodes is protected afterwards.
            let now = match mount {
                PlannedMount { is_dev: true, .. } => api::ATTR_NOSUID,
                mount if mount.takes_mode && !attach => attributes & !api::ATTR_RDONLY,
                _ => attributes,
            };
            let made = file_system(kind, parameters, now);
            (made.at(Step::Source, object)?, false)
        }
        PlannedSource::File {
            name,
            contents,
            mode,
            owner,
        } => {
            let made = file(scratch, name, contents, *mode, *owner);
            (made.at(Step::Source, object)?, false)
        }
    };
    let fd = match &mount.selector {
        Some(selector) => {
            if !attached {
                api::attach_at(fd, libc::AT_FDCWD, c"/").at(Step::Source, object)?;
            }
            let inside = sys::open_in_root(fd, selector).at(Step::Selector, mount.target_object)?;
            api::clone_tree(inside, c"").at(Step::Source, object)?
        }
        None if attached && !attach => api::clone_tree(fd, c"").at(Step::Source, object)?,
        None => fd,
    };
    let copied = !matches!(mount.source, PlannedSource::FileSystem { .. })
        && (mount.selector.is_some() || !matches!(mount.source, PlannedSource::Overlay(_)));
    if copied && attributes != 0 {
        api::set_attributes(fd, attributes, true).at(Step::ReadOnly, object)?;
    }
    if attach {
        if !is_directory(mount, fd).at(Step::Source, object)? {
            return Err(Failed {
                step: Step::Source,
                object,
                errno: libc::ENOTDIR,
            });
        }
        if !attached || mount.selector.is_some() {
            api::attach_at(fd, libc::AT_FDCWD, c"/").at(Step::PivotRoot, object)?;
        }
    }
    Ok(fd)
}

/// Whether a mount is of a directory; it is looked at only where its source does not say.
fn is_directory(mount: &PlannedMount, fd: c_int) -> sys::Result<bool> {
    match (&mount.source, &mount.selector) {
        (PlannedSource::Overlay(_) | PlannedSource::FileSystem { .. }, None) => Ok(true),
        (PlannedSource::Clone { .. }, _) | (_, Some(_)) => Ok(sys::stat(fd)?.is(libc::S_IFDIR)),
        _ => Ok(false),
    }
}

fn file_system(kind: &CStr, parameters: &[Parameter], attributes: u64) -> sys::Result<c_int> {
    let context = api::fsopen(kind)?;
    for parameter in parameters {
        api::configure(
            context,
            parameter.kind,
            &parameter.key,
            parameter.value.as_deref(),
        )?;
    }
    api::create(context)?;
    // `execve` closes the context.
    api::fsmount(context, attributes)
}

fn file(
    scratch: c_int,
    name: &CStr,
    contents: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> sys::Result<c_int> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    // Nobody else can reach it yet, and the mask of the process is 0 until the end.
    let fd = sys::open_at(scratch, name, flags, mode)?;
    sys::write_all(fd, contents)?;
    if let Some((uid, gid)) = owner {
        // A change of owner takes some of the bits away.
        sys::chown(fd, uid, gid)?;
        sys::fchmod(fd, mode)?;
    }
    sys::close(fd);
    api::clone_tree(scratch, name)
}

/// The mask of the process is 0 until the end.
fn node(
    scratch: c_int,
    name: &CStr,
    (mode, device): (u32, u64),
    owner: (u32, u32),
) -> sys::Result<c_int> {
    sys::mknod_at(scratch, name, mode, device)?;
    let node = api::clone_tree(scratch, name)?;
    sys::chown(node, owner.0, owner.1)?;
    Ok(node)
}

/// Mounts an overlay. True: by mount(2), so that it is attached above `/`.
fn overlay_mount(
    plan: &OverlayPlan,
    attributes: u64,
    object: Object,
    classic: bool,
) -> Result<(c_int, bool), Failed> {
    sys::chdir(&plan.base).at(Step::Source, object)?;
    let mut modern = None;
    if !classic && !plan.parameters.is_empty() {
        match modern_overlay(plan, attributes, object) {
            Ok(fd) => return Ok((fd, false)),
            // A kernel that does not know `lowerdir+` says so at once, or, before Linux 6.5, when
            // it has all parameters.
            Err(failed) if failed.errno == libc::EINVAL => modern = Some(failed),
            Err(failed) => return Err(failed),
        }
    }
    let Some(options) = &plan.options else {
        let too_many = Failed {
            step: Step::Source,
            object,
            errno: TOO_MANY_LAYERS,
        };
        return Err(modern
            .filter(|it| it.step == Step::Layer)
            .unwrap_or(too_many));
    };
    // MS_RDONLY, MS_NOSUID, MS_NODEV and MS_NOEXEC have the values of their attributes.
    if let Err(errno) = api::mount(c"overlay", c"/", attributes, options) {
        let step = Step::Source;
        return Err(match modern {
            Some(failed) if errno == libc::EINVAL || failed.step == Step::Layer => failed,
            _ => missing_layer(plan).unwrap_or(Failed {
                step,
                object,
                errno,
            }),
        });
    }
    // `..` of the root directory leads to what is mounted on top of it.
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let fd = sys::open_at(libc::AT_FDCWD, c"/..", flags, 0).at(Step::Source, object)?;
    if sys::file_system(fd).at(Step::Source, object)? != OVERLAY_MAGIC {
        return Err(Failed {
            step: Step::Source,
            object,
            errno: libc::EINVAL,
        });
    }
    Ok((fd, true))
}

/// The first directory of the overlay that cannot be opened.
fn missing_layer(plan: &OverlayPlan) -> Option<Failed> {
    let named = plan.parameters.iter().filter(|it| it.object != 0);
    named.into_iter().find_map(|layer| {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        match sys::open_at(libc::AT_FDCWD, layer.value.as_deref()?, flags, 0) {
            Ok(there) => {
                sys::close(there);
                None
            }
            Err(errno) => Some(Failed {
                step: Step::Layer,
                object: layer.object,
                errno,
            }),
        }
    })
}

/// Mounts an overlay whose layers are told one by one, without attaching it.
fn modern_overlay(plan: &OverlayPlan, attributes: u64, object: Object) -> Result<c_int, Failed> {
    let context = api::fsopen(c"overlay").at(Step::Source, object)?;
    let made = configured(context, plan, attributes, object);
    sys::close(context);
    made
}

fn configured(
    context: c_int,
    plan: &OverlayPlan,
    attributes: u64,
    object: Object,
) -> Result<c_int, Failed> {
    for parameter in &plan.parameters {
        let value = parameter.value.as_deref();
        let (step, object) = match parameter.object {
            0 => (Step::Source, object),
            layer => (Step::Layer, layer),
        };
        api::configure(context, parameter.kind, &parameter.key, value).at(step, object)?;
    }
    api::create(context).at(Step::Source, object)?;
    api::fsmount(context, attributes).at(Step::Source, object)
}

/// Attaches everything below the root, then hides and protects.
pub(super) fn attach_all(plan: &Plan, walker: &mut Walker, parts: &mut Parts) -> Done {
    attach_mounts(&plan.mounts, walker, parts)?;
    let root = walker.root();
    for &(ref path, object) in &plan.readonly {
        make_readonly(root, path).at(Step::ReadOnly, object)?;
    }
    for &(ref path, object) in &plan.masked {
        mask(root, path, parts).at(Step::Mask, object)?;
    }
    Ok(())
}

/// Makes the root of the inner process ready, if there is one.
pub(super) fn prepare_inner(plan: &Plan, walker: &mut Walker, parts: &mut Parts) -> Done {
    let Some(inner) = &plan.inner else {
        return Ok(());
    };
    let object = inner.root.source_object;
    // What was mounted is a directory: nothing else can be attached to one.
    sys::mkdir_at(libc::AT_FDCWD, INNER, 0o700).at(Step::Target, object)?;
    api::attach_at(inner.root.fd, libc::AT_FDCWD, INNER).at(Step::Attach, object)?;
    let mount = sys::stat(inner.root.fd).at(Step::Attach, object)?.mount;
    walker.enter_root(inner.root.fd, mount);
    attach_mounts(&inner.mounts, walker, parts)?;
    let create = Create {
        file: false,
        owner: Some(inner.owner),
        record: false,
    };
    let cwd = walker
        .open(&inner.cwd, create)
        .at(Step::Cwd, inner.cwd_object)?;
    if !sys::stat(cwd)
        .at(Step::Cwd, inner.cwd_object)?
        .is(libc::S_IFDIR)
    {
        return Err(libc::ENOTDIR).at(Step::Cwd, inner.cwd_object);
    }
    walker.close(cwd);
    if inner.readonly {
        api::set_attributes(inner.root.fd, api::ATTR_RDONLY, false).at(Step::ReadOnly, object)?;
    }
    // It was needed to tell the links of procfs from others; the runtime mounts one that belongs
    // to its own namespace.
    api::detach(INNER_PROC).at(Step::Attach, inner.mounts[0].target_object)
}

fn attach_mounts(mounts: &[PlannedMount], walker: &mut Walker, parts: &mut Parts) -> Done {
    let mut dev = -1;
    for mount in mounts {
        let object = mount.target_object;
        match mount.rule {
            TargetRule::Follow => attach_below_root(mount, walker)?,
            TargetRule::OrdinaryDirectory { magic } => attach_kernels(mount, walker, magic)?,
            TargetRule::InDev => attach_in_dev(mount, dev).at(Step::Attach, object)?,
        }
        if mount.is_dev {
            dev = mount.fd;
            fill_dev(mount, parts).at(Step::Devices, object)?;
        }
    }
    Ok(())
}

/// Attaches a mount at the end of a path that may lead anywhere below the root.
fn attach_below_root(mount: &PlannedMount, walker: &mut Walker) -> Done {
    let object = mount.target_object;
    let directory = is_directory(mount, mount.fd).at(Step::Attach, object)?;
    let target = open_target(mount, walker, !directory)?;
    if mount.takes_mode {
        let covered = if walker.created { None } else { Some(target) };
        take_mode(mount, covered).at(Step::Attach, object)?;
    }
    api::attach(mount.fd, target).at(Step::Attach, object)?;
    walker.close(target);
    Ok(())
}

fn open_target(mount: &PlannedMount, walker: &mut Walker, file: bool) -> Result<c_int, Failed> {
    let create = Create {
        file,
        owner: None,
        record: true,
    };
    let target = walker.open(&mount.target, create);
    target.at(Step::Target, mount.target_object)
}

/// Attaches a file system of the kernel's. They go onto ordinary directories only: an image in
/// which `/proc` leads elsewhere would make later writes to `/proc` land in a file of its choice.
fn attach_kernels(mount: &PlannedMount, walker: &mut Walker, magic: i64) -> Done {
    let object = mount.target_object;
    let target = match open_name(mount, walker) {
        Err(libc::ENOENT) => open_target(mount, walker, false)?,
        found => {
            let found = found.at(Step::Target, object)?;
            if !sys::stat(found).at(Step::Target, object)?.is(libc::S_IFDIR) {
                return Err(REFUSED).at(Step::Target, object);
            }
            found
        }
    };
    api::attach(mount.fd, target).at(Step::Attach, object)?;
    sys::close(target);
    verify(mount, walker, magic).at(Step::Attach, object)
}

/// Nothing but what was just made is in `dev`, so that no path has to be followed.
fn attach_in_dev(mount: &PlannedMount, dev: c_int) -> sys::Result<()> {
    let path = mount.target.to_bytes_with_nul();
    let name = path.strip_prefix(b"/dev/").ok_or(libc::EINVAL)?;
    let name = CStr::from_bytes_until_nul(name).map_err(|_| libc::EINVAL)?;
    sys::mkdir_at(dev, name, 0o755)?;
    api::attach_at(mount.fd, dev, name)
}

/// Gives a file system in memory the mode of what it covers, as runc does.
fn take_mode(mount: &PlannedMount, covered: Option<c_int>) -> sys::Result<()> {
    if let Some(covered) = covered {
        let mode = sys::stat(covered)?.mode & 0o7777;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let root = sys::open_at(mount.fd, c".", flags, 0)?;
        let changed = sys::fchmod(root, mode);
        sys::close(root);
        changed?;
    }
    match mount.attributes & api::ATTR_RDONLY {
        0 => Ok(()),
        readonly => api::set_attributes(mount.fd, readonly, false),
    }
}

/// Makes the root read-only if it has to be, after everything has been created in it.
pub(super) fn protect_root(plan: &Plan) -> Done {
    if !plan.root_readonly {
        return Ok(());
    }
    let object = plan.root.source_object;
    api::set_attributes(plan.root.fd, api::ATTR_RDONLY, false).at(Step::ReadOnly, object)
}

/// Opens the mount point by its name, which is directly below the root.
fn open_name(mount: &PlannedMount, walker: &Walker) -> sys::Result<c_int> {
    let bytes = mount.target.to_bytes_with_nul();
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    let name = CStr::from_bytes_until_nul(bytes).unwrap_or(c"");
    sys::open_at(walker.root(), name, libc::O_PATH | libc::O_NOFOLLOW, 0)
}

/// Looks again by name whether the path now leads to what was mounted.
fn verify(mount: &PlannedMount, walker: &Walker, magic: i64) -> sys::Result<()> {
    let found = open_name(mount, walker)?;
    let same = sys::stat(found)?.mount == sys::stat(mount.fd)?.mount;
    let kind = sys::file_system(found)?;
    sys::close(found);
    if same && kind == magic {
        Ok(())
    } else {
        Err(REFUSED)
    }
}

/// Fills `/dev`. Nodes are mounts of their own, on which devices work, unlike on the rest of it.
fn fill_dev(mount: &PlannedMount, parts: &mut Parts) -> sys::Result<()> {
    let dev = mount.fd;
    match parts.borrowed {
        // A user namespace cannot make nodes.
        Some(nodes) => {
            for (&(name, ..), node) in NODES.iter().zip(nodes) {
                sys::mknod_at(dev, name, libc::S_IFREG | 0o666, 0)?;
                if parts.null >= 0 {
                    let copy = api::clone_tree(node, c"")?;
                    api::attach_at(copy, dev, name)?;
                    sys::close(copy);
                } else {
                    api::attach_at(node, dev, name)?;
                }
            }
            parts.null = nodes[0];
        }
        // Made here, nothing done to them inside reaches the host's. Each covers itself.
        None => {
            for (name, _, major, minor) in NODES {
                let made = libc::makedev(major, minor);
                sys::mknod_at(dev, name, libc::S_IFCHR | 0o666, made)?;
                let node = api::clone_tree(dev, name)?;
                api::attach_at(node, dev, name)?;
                if parts.null < 0 {
                    parts.null = node;
                } else {
                    sys::close(node);
                }
            }
        }
    }
    for (name, target) in LINKS {
        sys::symlink_at(target, dev, name)?;
    }
    // Not every kernel has one.
    if sys::exists(KCORE) {
        sys::symlink_at(KCORE, dev, c"core")?;
    }
    api::set_attributes(dev, mount.attributes, false)
}

/// Resolves inside the root; `None` if there is nothing.
fn find(root: c_int, path: &CStr) -> sys::Result<Option<c_int>> {
    match sys::open_in_root(root, path) {
        Ok(fd) => Ok(Some(fd)),
        Err(libc::ENOENT | libc::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn make_readonly(root: c_int, path: &CStr) -> sys::Result<()> {
    let Some(place) = find(root, path)? else {
        return Ok(());
    };
    let copy = api::clone_tree(place, c"")?;
    api::set_attributes(copy, api::ATTR_RDONLY, true)?;
    api::attach(copy, place)?;
    sys::close(copy);
    sys::close(place);
    Ok(())
}

fn mask(root: c_int, path: &CStr, parts: &mut Parts) -> sys::Result<()> {
    let Some(place) = find(root, path)? else {
        return Ok(());
    };
    if !sys::stat(place)?.is(libc::S_IFDIR) {
        let null = api::clone_tree(parts.null, c"")?;
        api::attach(null, place)?;
        sys::close(null);
    } else if parts.empty_is_attached {
        let empty = api::clone_tree(parts.empty, c"")?;
        api::attach(empty, place)?;
        sys::close(empty);
    } else {
        api::attach(parts.empty, place)?;
        parts.empty_is_attached = true;
    }
    sys::close(place);
    Ok(())
}

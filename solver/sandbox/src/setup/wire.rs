//! The network namespace of the process: its loopback interface, and the wire out of it.
//!
//! Owns: what has to happen inside the namespace. The other end of the wire belongs to the caller
//! of the crate, on another thread of the host process.

use super::{At, Failed};
use crate::plan::{Plan, PlannedWire};
use crate::sys::{self, call};
use crate::{Step, Tunnel};
use std::ffi::{c_char, c_int, c_long, c_ulong};
use std::mem::zeroed;
use std::net::Ipv4Addr;

/// Descriptors that are sent at most.
const MAX_SENT: usize = 3;

/// Name of the device, as a program expects it of its first network card.
const DEVICE: &[u8] = b"eth0";

/// Waits for the wire before anything is mounted: `/proc` and `/dev` are still the host's.
pub(super) fn connect(plan: &Plan) -> Result<(), Failed> {
    if plan.loopback {
        with_socket(|socket| up(socket, b"lo")).at(Step::Loopback, 0)?;
    }
    match &plan.wire {
        Some(wire) => attach(wire, plan.id_map.is_some()).at(Step::Wire, 0),
        None => Ok(()),
    }
}

fn attach(wire: &PlannedWire, user_namespace: bool) -> sys::Result<()> {
    let mut fds = [-1; MAX_SENT];
    let mut count = 0;
    let mut add = |fd: c_int| {
        fds[count] = fd;
        count += 1;
    };
    let open = |path| sys::open_at(libc::AT_FDCWD, path, libc::O_RDONLY, 0);
    add(open(c"/proc/self/ns/net")?);
    if user_namespace {
        add(open(c"/proc/self/ns/user")?);
    }
    if let Some(tunnel) = &wire.tunnel {
        let device = sys::open_at(
            libc::AT_FDCWD,
            c"/dev/net/tun",
            libc::O_RDWR | libc::O_NONBLOCK,
            0,
        )?;
        make_tunnel(device, tunnel)?;
        add(device);
    }
    send(wire.socket, &fds[..count])?;
    fds[..count].iter().for_each(|&fd| sys::close(fd));
    if wire.wait {
        let mut byte = [0u8; 1];
        // SAFETY: the buffer is valid and writable for its length.
        let read = unsafe { call!(libc::SYS_read, wire.socket, byte.as_mut_ptr(), 1usize) }?;
        if read == 0 {
            return Err(libc::ECONNABORTED);
        }
    }
    Ok(())
}

fn make_tunnel(device: c_int, tunnel: &Tunnel) -> sys::Result<()> {
    let mut named = request(DEVICE);
    named.ifr_ifru.ifru_flags = flags(libc::IFF_TUN | libc::IFF_NO_PI);
    ioctl(device, libc::TUNSETIFF, &mut named)?;
    with_socket(|socket| {
        let mut address = request(DEVICE);
        address.ifr_ifru.ifru_addr = socket_address(tunnel.address);
        ioctl(socket, libc::SIOCSIFADDR, &mut address)?;
        address.ifr_ifru.ifru_netmask = socket_address(tunnel.mask);
        ioctl(socket, libc::SIOCSIFNETMASK, &mut address)?;
        address.ifr_ifru.ifru_mtu = c_int::from(tunnel.mtu);
        ioctl(socket, libc::SIOCSIFMTU, &mut address)?;
        up(socket, DEVICE)?;
        default_route(socket)
    })
}

/// Everything goes through the device: there is one peer at most, so that no gateway is needed.
fn default_route(socket: c_int) -> sys::Result<()> {
    // SAFETY: the structure is made of integers and pointers, for which zero is a value.
    let mut route: libc::rtentry = unsafe { zeroed() };
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(DEVICE) {
        *to = c_char::from_ne_bytes([*from]);
    }
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_flags = libc::RTF_UP;
    route.rt_dev = name.as_mut_ptr().cast();
    // SAFETY: the route and the name in it are valid for the call, which reads them.
    unsafe {
        let number = libc::SIOCADDRT as c_long;
        call!(libc::SYS_ioctl, socket, number, &raw mut route)
    }
    .map(drop)
}

fn up(socket: c_int, name: &[u8]) -> sys::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags(libc::IFF_UP | libc::IFF_RUNNING);
    ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

fn with_socket(work: impl FnOnce(c_int) -> sys::Result<()>) -> sys::Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes integers only.
    let socket = unsafe { call!(libc::SYS_socket, libc::AF_INET, kind, 0) }?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel's descriptors are C ints"
    )]
    let socket = socket as c_int;
    let done = work(socket);
    sys::close(socket);
    done
}

fn request(name: &[u8]) -> libc::ifreq {
    // SAFETY: the structure is made of integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = c_char::from_ne_bytes([*from]);
    }
    request
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the flags are the low bits"
)]
fn flags(flags: c_int) -> i16 {
    flags as i16
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: the structure is made of integers, for which zero is a value.
    let mut out: libc::sockaddr = unsafe { zeroed() };
    out.sa_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    // After the port, two bytes, as in `sockaddr_in`.
    for (to, from) in out.sa_data[2..6].iter_mut().zip(address.octets()) {
        *to = c_char::from_ne_bytes([from]);
    }
    out
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "request numbers fit into the low 32 bits"
)]
fn ioctl(fd: c_int, number: c_ulong, request: &mut libc::ifreq) -> sys::Result<()> {
    // SAFETY: the request is valid for the ioctls of this file, which read and fill it.
    unsafe {
        call!(
            libc::SYS_ioctl,
            fd,
            number as c_long,
            std::ptr::from_mut(request)
        )
    }
    .map(drop)
}

/// The control message with room for every descriptor, laid out as the kernel wants it.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fds: [c_int; MAX_SENT],
}

fn send(socket: c_int, fds: &[c_int]) -> sys::Result<()> {
    let mut byte = [u8::try_from(fds.len()).unwrap_or(0)];
    let length = size_of::<libc::cmsghdr>() + size_of_val(fds);
    // SAFETY: the structures are made of integers and pointers, for which zero is a value.
    let (mut rights, mut message): (Rights, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    rights.header.cmsg_len = length as _;
    rights.header.cmsg_level = libc::SOL_SOCKET;
    rights.header.cmsg_type = libc::SCM_RIGHTS;
    for (to, &fd) in rights.fds.iter_mut().zip(fds) {
        *to = fd;
    }
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut rights).cast();
    message.msg_controllen = length as _;
    let none = libc::MSG_NOSIGNAL;
    // SAFETY: the message and what it points to are valid for the call, which reads them.
    unsafe { call!(libc::SYS_sendmsg, socket, &raw const message, none) }.map(drop)
}

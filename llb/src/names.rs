//! Names that mean different things, as types of their own.
//!
//! Owns paths inside trees, the ids under which clients and engines know things, and permission
//! bits. Invariant: none of them is changed on its way to the bytes. What cannot be right (a path
//! with a zero byte, bits that a file cannot have) is an error of the marshal, which knows the
//! step; whether an id is known is for the engine.

use std::borrow::Cow;
use std::fmt;

use smol_str::SmolStr;

/// Makes types that hold a text and differ in what it means.
macro_rules! names {
    ($($(#[$doc:meta])* $type:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(SmolStr);

        impl $type {
            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Tells whether the text is empty.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl From<&str> for $type {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $type {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<&String> for $type {
            fn from(text: &String) -> Self {
                Self(text.into())
            }
        }

        impl From<Cow<'_, str>> for $type {
            fn from(text: Cow<'_, str>) -> Self {
                Self(text.into())
            }
        }

        impl From<&Self> for $type {
            fn from(name: &Self) -> Self {
                name.clone()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.into()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

names! {
    /// A path inside a tree, as a step sees it; never one of the machine that describes the build.
    ///
    /// Texts become paths by themselves; a path of the host ([`std::path::Path`]) does not.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::GuestPath;
    ///
    /// let sources = GuestPath::from("/src");
    /// let run = llb::image("gcc").run(["make"]).dir(&sources).mount(&sources, llb::local("context"));
    /// let kept = llb::scratch().file(llb::copy(&run.output("/src"), "/app", "/app"));
    /// # let _ = kept;
    /// ```
    ///
    /// ```compile_fail
    /// let _ = ashlar_llb::mkdir(std::path::Path::new("/home/me"));
    /// ```
    GuestPath

    /// The name of a cache directory, shared by all builds of an engine.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::{Cache, CacheId};
    ///
    /// let id = CacheId::from("cargo");
    /// let fetch = llb::image("rust").run(["cargo", "fetch"]).mount("/cargo", Cache::locked(&id));
    /// # let _ = fetch;
    /// ```
    CacheId

    /// The name by which the client of a build knows a secret.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::{Secret, SecretId};
    ///
    /// let token = SecretId::from("token");
    /// let source = llb::git("https://example.com/private.git").auth_token_secret(&token);
    /// let run = llb::image("alpine").run(["deploy"]).secret(Secret::env(&token, "TOKEN"));
    /// # let _ = (source, run);
    /// ```
    ///
    /// ```compile_fail
    /// use ashlar_llb::{CacheId, Secret};
    /// let _ = Secret::env(CacheId::from("cargo"), "TOKEN");
    /// ```
    SecretId

    /// The name by which the client of a build knows an ssh agent; `default` is meant if it is
    /// empty.
    SshId

    /// The name of a session: of the connection over which a client lends things to a build.
    SessionId

    /// The name by which the client of a build lends a store of OCI layouts.
    StoreId
}

impl GuestPath {
    /// The root of a tree.
    pub(crate) const ROOT: Self = Self(SmolStr::new_static("/"));

    /// Tells whether no tree can have the path: names are ended by zero bytes.
    pub(crate) fn is_impossible(&self) -> bool {
        self.0.as_bytes().contains(&0)
    }
}

/// Permission bits of a file, and the three above them.
///
/// Numbers become modes by themselves, so that one writes `.mode(0o755)`. A number with bits that
/// the file cannot have, as `755` has, is an error of the marshal, not another mode than was meant;
/// [`Mode::truncated`] drops such bits.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{Constraints, MarshalError, Mode, Platform};
///
/// let constraints = Constraints::new(Platform::linux_amd64());
/// let state = |mode: Mode| llb::scratch().file(llb::mkdir("/bin").mode(mode));
/// assert!(state(0o755.into()).marshal(&constraints).is_ok());
/// let decimal = state(755.into()).marshal(&constraints);
/// assert!(matches!(decimal, Err(MarshalError::Mode { mode, .. }) if mode.bits() == 755));
/// assert_eq!(Mode::new(0o1777).map(|mode| mode.to_string()), Some("1777".to_owned()));
/// assert_eq!(Mode::new(0o20_755), None);
/// assert_eq!(Mode::truncated(0o1777), Mode::from(0o777));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u32);

impl Mode {
    /// The mode of these bits, if they are permission bits and the three above them.
    #[must_use]
    pub const fn new(bits: u32) -> Option<Self> {
        if bits > 0o7777 {
            return None;
        }
        Some(Self(bits))
    }

    /// The permission bits among these; others are dropped.
    #[must_use]
    pub const fn truncated(bits: u32) -> Self {
        Self(bits & 0o777)
    }

    /// Returns the bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Tells whether there are no bits but permission bits.
    pub(crate) fn is_plain(self) -> bool {
        self.0 <= 0o777
    }
}

impl From<u32> for Mode {
    /// Takes the bits as they are; the marshal refuses those that are none of a file's.
    fn from(bits: u32) -> Self {
        Self(bits)
    }
}

/// Octal, as chmod writes it.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

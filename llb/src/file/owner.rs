//! Owners that file actions give to what they make.

use crate::pb;

/// A user or a group, by number or by a name that is looked up in the tree the action works on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "there is no third way to name a user"
)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

impl Principal {
    /// Reads a number, `root`, or else a name.
    fn parse(text: &str) -> Self {
        if text == "root" || text.is_empty() {
            return Self::Id(0);
        }
        // Negative numbers wrap around, as in BuildKit.
        match text.parse::<i32>() {
            Ok(id) => Self::Id(id.cast_unsigned()),
            Err(_) => Self::Name(text.to_owned()),
        }
    }

    fn to_pb(&self, base: i64) -> pb::UserOpt {
        let user = match self {
            Self::Name(name) if !name.is_empty() => pb::user_opt::User::ByName(pb::NamedUserOpt {
                name: name.clone(),
                input: base,
            }),
            Self::Name(_) => pb::user_opt::User::ById(0),
            Self::Id(id) => pb::user_opt::User::ById(*id),
        };
        pb::UserOpt { user: Some(user) }
    }
}

/// User and group of a file; one that is not set is root, or for copies that of the original.
///
/// Made from numbers (`(1000, 1000)`) or from a text (`"user:group"`, where numbers are numbers
/// and `root` is 0).
///
/// ```
/// use ashlar_llb as llb;
/// use llb::Owner;
///
/// let home = llb::mkdir("/home/me").owner("me:users").mkdir("/home/you").owner((1001, 100));
/// # let _ = home;
/// # assert_ne!(Owner::from("0:0"), Owner::from("0"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a file has one user and one group"
)]
pub struct Owner {
    /// The user.
    pub user: Option<Principal>,
    /// The group.
    pub group: Option<Principal>,
}

impl From<(u32, u32)> for Owner {
    fn from((uid, gid): (u32, u32)) -> Self {
        Self {
            user: Some(Principal::Id(uid)),
            group: Some(Principal::Id(gid)),
        }
    }
}

impl From<&str> for Owner {
    fn from(text: &str) -> Self {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Self {
            user: Some(Principal::parse(user)),
            group: group.map(Principal::parse),
        }
    }
}

impl From<String> for Owner {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl Owner {
    /// Writes the owner; names are looked up in the input `base`.
    pub(super) fn to_pb(&self, base: i64) -> pb::ChownOpt {
        pb::ChownOpt {
            user: self.user.as_ref().map(|user| user.to_pb(base)),
            group: self.group.as_ref().map(|group| group.to_pb(base)),
        }
    }
}

//! Who the owner of an action is.

use ashlar_llb::pb;
use ashlar_llb::pb::user_opt::User;

use super::FileProblem;
use super::error::Stop;
use super::plan::Owner;
use crate::executor::Accounts;
use crate::progress::Reporter;
use crate::tree::View;

/// Looks up user and group. A user alone brings the group of its name, or the group of its number.
/// A name that is not found counts as root, as in BuildKit, with a warning.
pub(super) fn find(
    owner: &pb::ChownOpt,
    mut view: impl FnMut(i64) -> Result<View, Stop>,
    reporter: &Reporter,
) -> Result<Owner, Stop> {
    let mut found = Owner { uid: 0, gid: 0 };
    match owner.user.as_ref().and_then(|user| user.user.as_ref()) {
        Some(User::ById(id)) => found = Owner { uid: *id, gid: *id },
        Some(User::ByName(named)) => {
            let users = Accounts::users(&view(input(named)?)?)?;
            match users.user(&named.name)? {
                Some((uid, gid)) => found = Owner { uid, gid },
                None => warn(reporter, "user", named, "/etc/passwd"),
            }
        }
        None => {}
    }
    match owner.group.as_ref().and_then(|group| group.user.as_ref()) {
        Some(User::ById(id)) => found.gid = *id,
        Some(User::ByName(named)) => {
            let groups = Accounts::groups(&view(input(named)?)?)?;
            match groups.group(&named.name)? {
                Some(gid) => found.gid = gid,
                None => warn(reporter, "group", named, "/etc/group"),
            }
        }
        None => {}
    }
    Ok(found)
}

fn input(named: &pb::NamedUserOpt) -> Result<i64, FileProblem> {
    if named.input < 0 {
        return Err(FileProblem::OwnerInput {
            name: named.name.clone(),
            input: named.input,
        });
    }
    Ok(named.input)
}

fn warn(reporter: &Reporter, kind: &str, named: &pb::NamedUserOpt, file: &str) {
    reporter.warn(format!(
        "{kind} {:?} is not in {file}: 0 is taken instead",
        named.name
    ));
}

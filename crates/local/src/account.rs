//! Under which account PostgreSQL runs. It refuses root, so root steps down to an account that exists.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, User, geteuid};

use crate::{Error, Result};

/// An account with a passwd entry; PostgreSQL and initdb insist on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
}

/// The account to step down to for the cluster in `data`; none when this process is not root.
///
/// A cluster that exists stays with its owner. A new one goes to `postgres`, else to `nobody`.
pub(crate) fn for_cluster(data: &Path) -> Result<Option<Account>> {
    let owner = fs::metadata(data).ok().map(|metadata| metadata.uid());
    if !geteuid().is_root() {
        return match owner {
            Some(owner) if owner != geteuid().as_raw() => {
                Err(Error::Foreign { path: data.to_owned(), owner })
            }
            _ => Ok(None),
        };
    }
    if let Some(owner) = owner.filter(|owner| *owner != 0) {
        let user = User::from_uid(Uid::from_raw(owner)).ok().flatten();
        let unknown =
            || Error::Account(format!("the owner of {} (id {owner}) has no account", data.display()));
        return user.map(Account::from).map(Some).ok_or_else(unknown);
    }
    let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    let none =
        || Error::Account("there is neither an account postgres nor nobody to run it under".to_owned());
    user.map(Account::from).map(Some).ok_or_else(none)
}

impl From<User> for Account {
    fn from(user: User) -> Account {
        Account { name: user.name, uid: user.uid, gid: user.gid }
    }
}

impl Account {
    /// Makes sure that the account may enter every directory above `program`.
    pub(crate) fn check_reach(&self, program: &Path) -> Result<()> {
        let real = program.canonicalize().map_err(Error::io("find", program))?;
        let closed = real.ancestors().skip(1).find(|dir| !self.may_enter(dir));
        match closed {
            None => Ok(()),
            Some(closed) => Err(Error::Unreachable {
                account: self.name.clone(),
                path: real.clone(),
                closed: closed.to_owned(),
            }),
        }
    }

    fn may_enter(&self, dir: &Path) -> bool {
        let Ok(metadata) = fs::metadata(dir) else { return false };
        let bit = match metadata {
            _ if metadata.uid() == self.uid.as_raw() => 0o100,
            _ if metadata.gid() == self.gid.as_raw() => 0o010,
            _ => 0o001,
        };
        metadata.mode() & bit != 0
    }
}

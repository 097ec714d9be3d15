//! Who runs the workload: Docker's way of reading `user` with the container's own lists.

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The other groups.
    pub(super) groups: Vec<u32>,
    /// The home directory, `/` for those who have none.
    pub(super) home: String,
}

/// The highest id Docker takes.
const MOST: u32 = i32::MAX.cast_unsigned();
/// The most groups a process can have (`NGROUPS_MAX`).
const GROUPS: usize = 65_536;

/// The user that `spec` names: `""`, `name`, `uid`, `name:group`, `uid:gid` and so on. `passwd`
/// and `group` are the container's files, which may say anything.
pub(super) fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<User, String> {
    let (name, group_name) = match spec.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (spec, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = id(name);
    let entry = lines(passwd).find_map(|fields| {
        // name:password:uid:gid:comment:home:shell
        let uid = id(field(&fields, 2)?)?;
        (field(&fields, 0)? == name || number == Some(uid)).then_some((
            field(&fields, 0)?.to_owned(),
            User {
                uid,
                gid: id(field(&fields, 3)?)?,
                groups: Vec::new(),
                home: field(&fields, 5).filter(|home| !home.is_empty()).unwrap_or("/").to_owned(),
            },
        ))
    });
    let (name, mut user) = match (entry, number) {
        (Some(entry), _) => entry,
        // A number need not be in the list.
        (None, Some(uid)) => (String::new(), User { uid, home: "/".to_owned(), ..User::default() }),
        (None, None) => return Err(format!("unable to find user {name}: no entry in /etc/passwd")),
    };
    // name:password:gid:members
    let mut groups = lines(group);
    if let Some(wanted) = group_name {
        let number = id(wanted);
        let found = groups.find_map(|fields| {
            let gid = id(field(&fields, 2)?)?;
            (field(&fields, 0)? == wanted || number == Some(gid)).then_some(gid)
        });
        user.gid = found
            .or(number)
            .ok_or_else(|| format!("unable to find group {wanted}: no entry in /etc/group"))?;
    } else {
        let member = |fields: Vec<&str>| {
            let is_one = !name.is_empty() && field(&fields, 3)?.split(',').any(|member| member == name);
            if is_one { id(field(&fields, 2)?) } else { None }
        };
        user.groups = groups.filter_map(member).take(GROUPS).collect();
    }
    Ok(user)
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MOST)
}

/// The lines that are text, each cut at its colons.
fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&str>> {
    let lines = file.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.map(|line| line.trim().split(':').collect())
}

fn field<'a>(fields: &[&'a str], number: usize) -> Option<&'a str> {
    fields.get(number).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\xff\xfe\nbroken\n:::\n\
                            www:x:33:34::/var/www:\nhuge:x:4294967295:0::/:\n7:x:12:12::/seven:\n";
    const GROUP: &[u8] = b"root:x:0:root\nwww:x:34:\nlog:x:50:root,www\ntape:x:51:www\nstaff:x:60:\n";

    fn user(spec: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        resolve(spec, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn users_are_found_as_under_docker() {
        for (spec, uid, gid, groups, home) in [
            ("", 0, 0, &[0, 50][..], "/root"),
            ("root", 0, 0, &[0, 50], "/root"),
            ("www", 33, 34, &[50, 51], "/var/www"),
            ("33", 33, 34, &[50, 51], "/var/www"),
            ("www:staff", 33, 60, &[], "/var/www"),
            ("33:7000", 33, 7000, &[], "/var/www"),
            ("1000", 1000, 0, &[], "/"),
            ("1000:1001", 1000, 1001, &[], "/"),
            ("7", 12, 12, &[], "/seven"),
        ] {
            assert_eq!(user(spec), Ok((uid, gid, groups.to_vec(), home.to_owned())), "{spec}");
        }
    }

    #[test]
    fn nobody_is_an_error() {
        assert!(user("nobody").unwrap_err().contains("unable to find user nobody"));
        assert!(user("www:nobody").unwrap_err().contains("unable to find group nobody"));
        assert!(user("huge").is_err());
        assert!(user("4294967295").is_err());
        assert!(resolve("0", b"", b"").is_ok(), "an image without any lists");
    }
}

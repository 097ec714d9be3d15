//! What `docker rmi` takes away, and when it does not: Docker's rules, decided without doing
//! anything.

use std::fmt;

use super::{
    record::{Image, ImageId},
    reference::Reference,
};

/// A container that uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Its short id.
    pub container: String,
    /// Whether it runs. An image in use by one that does not can be removed by force.
    pub running: bool,
}

/// What was taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A tag, in its familiar form.
    Untagged(String),
    /// An image.
    Deleted(ImageId),
}

/// Why an image stays. The wording is Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Its last tag cannot go while a container uses it.
    #[error(
        "conflict: unable to remove repository reference \"{text}\" (must force) - container \
         {container} is using its referenced image {image}"
    )]
    Reference {
        /// What was to be removed.
        text: String,
        /// The short id of the container.
        container: String,
        /// The short id of the image.
        image: String,
    },
    /// The image cannot go.
    #[error("conflict: unable to delete {image} ({}) - {reason}", if *forcible { "must be forced" } else { "cannot be forced" })]
    Image {
        /// The short id of the image.
        image: String,
        /// Whether force would do it.
        forcible: bool,
        /// Why.
        reason: Reason,
    },
}

/// What keeps an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has more than one tag.
    Referenced,
    /// A container, by its short id, runs on it.
    Running(String),
    /// A container, by its short id, would run on it.
    Stopped(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Referenced => write!(f, "image is referenced in multiple repositories"),
            Self::Running(id) => write!(f, "image is being used by running container {id}"),
            Self::Stopped(id) => write!(f, "image is being used by stopped container {id}"),
        }
    }
}

/// What is to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) tags: Vec<Reference>,
    pub(super) image: bool,
}

/// What goes when `image`, which `text` was found to be, is to be removed.
pub(super) fn plan(image: &Image, text: &str, force: bool, in_use: Option<InUse>) -> Result<Plan, Conflict> {
    // Tags of one repository go together when the image goes by its id.
    let single = image.tags.windows(2).all(|pair| pair[0].repository() == pair[1].repository());
    let conflict =
        |forcible, reason| Conflict::Image { image: image.id.short().to_owned(), forcible, reason };
    // A running container is in the way of everything, a stopped one of what is not forced.
    let used = in_use.clone().and_then(|user| match (user.running, force) {
        (true, _) => Some(conflict(false, Reason::Running(user.container))),
        (false, false) => Some(conflict(true, Reason::Stopped(user.container))),
        (false, true) => None,
    });
    let tags: Vec<_> = text.parse().into_iter().filter(|tag| image.tags.contains(tag)).collect();
    // It was found by its id.
    if tags.is_empty() {
        if let Some(used) = used {
            return Err(used);
        }
        if !single && !force {
            return Err(conflict(true, Reason::Referenced));
        }
        return Ok(Plan { tags: image.tags.clone(), image: true });
    }
    if let (false, 0..=1, Some(user)) = (force, image.tags.len(), in_use) {
        return Err(Conflict::Reference {
            text: text.to_owned(),
            container: user.container,
            image: image.id.short().to_owned(),
        });
    }
    let last = image.tags.iter().all(|tag| tags.contains(tag));
    // The tag goes; the image too, unless something is in its way, which then is no error.
    Ok(Plan { tags, image: last && used.is_none() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageConfig;

    fn image(tags: &[&str]) -> Image {
        Image {
            id: ImageId::parse(&"ab".repeat(32)).unwrap(),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            created: String::new(),
            size: 0,
            config: ImageConfig::default(),
            architecture: String::new(),
            os: String::new(),
            layers: Vec::new(),
            author: String::new(),
            comment: String::new(),
            history: Vec::new(),
        }
    }

    fn used(running: bool) -> InUse {
        InUse { container: "c0ffee".to_owned(), running }
    }

    #[test]
    fn the_last_tag_takes_the_image_along() {
        let plan = |image: &Image, text, force, user| {
            plan(image, text, force, user).map(|plan| (plan.tags.len(), plan.image))
        };
        assert_eq!(plan(&image(&["a"]), "a", false, None).unwrap(), (1, true));
        assert_eq!(plan(&image(&["a", "b"]), "a:latest", false, None).unwrap(), (1, false));
        assert_eq!(plan(&image(&[]), "abab", false, None).unwrap(), (0, true));
        assert_eq!(plan(&image(&["a:1", "a:2"]), "abab", false, None).unwrap(), (2, true));
        assert_eq!(plan(&image(&["a", "b"]), "sha256:ab", true, None).unwrap(), (2, true));
        assert_eq!(plan(&image(&["a", "b"]), "a", false, Some(used(true))).unwrap(), (1, false));
        assert_eq!(plan(&image(&["a"]), "a", true, Some(used(true))).unwrap(), (1, false));
        assert_eq!(plan(&image(&["a"]), "a", true, Some(used(false))).unwrap(), (1, true));
        assert_eq!(plan(&image(&["a"]), "abab", true, Some(used(false))).unwrap(), (1, true));
    }

    #[test]
    fn conflicts_read_like_dockers() {
        let text = |image: &Image, text, force, user| plan(image, text, force, user).unwrap_err().to_string();
        assert_eq!(
            text(&image(&["a", "b"]), "abab", false, None),
            "conflict: unable to delete abababababab (must be forced) - image is referenced in multiple \
             repositories"
        );
        assert_eq!(
            text(&image(&["a"]), "abab", true, Some(used(true))),
            "conflict: unable to delete abababababab (cannot be forced) - image is being used by running \
             container c0ffee"
        );
        assert_eq!(
            text(&image(&["a"]), "abab", false, Some(used(false))),
            "conflict: unable to delete abababababab (must be forced) - image is being used by stopped \
             container c0ffee"
        );
        assert_eq!(
            text(&image(&["a"]), "a", false, Some(used(true))),
            "conflict: unable to remove repository reference \"a\" (must force) - container c0ffee is using \
             its referenced image abababababab"
        );
    }
}

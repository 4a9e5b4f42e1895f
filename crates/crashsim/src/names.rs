//! [`Names`]: requests in words, their subjects called by the names they have at that moment.

use std::collections::HashMap;
use std::ffi::OsStr;

use crate::files::FileOp;
use crate::image::{Body, FsImage, Ino};

/// Longer names are shown with a gap in the middle.
const NAME_CHARS_MAX: usize = 28;
/// What is shown of them before and after the gap.
const HEAD_CHARS: usize = 15;
const TAIL_CHARS: usize = 10;

/// What each inode is called, request after request.
#[derive(Debug)]
pub(crate) struct Names {
    of: HashMap<Ino, String>,
}

impl Names {
    /// As an image has them.
    pub(crate) fn of(image: &FsImage) -> Self {
        let mut of = HashMap::from([(FsImage::ROOT, "/".to_owned())]);
        let mut due = vec![FsImage::ROOT];
        while let Some(dir) = due.pop() {
            for (name, &ino) in image.entries(dir).into_iter().flatten() {
                let is_dir = image.entries(ino).is_some();
                if of.insert(ino, shown(name, is_dir)).is_none() && is_dir {
                    due.push(ino);
                }
            }
        }
        Self { of }
    }

    /// The next request in words. It may change names.
    pub(crate) fn tell(&mut self, op: &FileOp) -> String {
        match op {
            FileOp::Create { dir, name, ino, node } => {
                let (what, is_dir) = match &node.body {
                    Body::File { .. } => ("create", false),
                    Body::Dir(_) => ("make directory", true),
                    Body::Symlink(_) => ("make symbolic link", false),
                };
                self.of.insert(*ino, shown(name, is_dir));
                format!("{what} {}, mode {}, in {}", self.call(*ino), node.attributes.mode, self.bare(*dir))
            }
            FileOp::Link { dir, name, ino } => {
                format!("link {} as {} in {}", self.call(*ino), shown(name, false), self.bare(*dir))
            }
            FileOp::Unlink { dir, ino, .. } => {
                format!("unlink {} in {}", self.call(*ino), self.bare(*dir))
            }
            FileOp::Rename { .. } => self.tell_rename(op),
            FileOp::Write { ino, offset, bytes } => {
                format!("write {}: {} bytes at {offset}", self.call(*ino), bytes.len())
            }
            FileOp::Allocate { ino, len } => format!("allocate {len} bytes for {}", self.call(*ino)),
            FileOp::SetLen { ino, len } => format!("set length of {} to {len}", self.call(*ino)),
            FileOp::SetMode { ino, mode } => format!("set mode of {} to {mode}", self.call(*ino)),
            FileOp::SetOwner { ino, owner } => {
                format!("set owner of {} to {}:{}", self.call(*ino), owner.uid, owner.gid)
            }
            FileOp::SetXattr { ino, name, .. } => {
                format!("set attribute {} of {}", name.to_string_lossy(), self.call(*ino))
            }
            FileOp::SyncFile { ino, data_only, outcome } => {
                let what = if *data_only { "data of" } else { "file" };
                format!("sync {what} {}{}", self.call(*ino), outcome.word())
            }
            FileOp::SyncWritten { ino, offset, len } => {
                format!("{len} bytes at {offset} of {} are durable", self.call(*ino))
            }
            FileOp::SyncDir { ino, outcome } => {
                format!("sync directory {}{}", self.bare(*ino), outcome.word())
            }
            FileOp::SyncAll { outcome } => format!("sync file system{}", outcome.word()),
        }
    }

    fn tell_rename(&mut self, op: &FileOp) -> String {
        let FileOp::Rename { from_dir, to_dir, from, to, ino, replaced, swapped } = op else {
            return String::new();
        };
        let is_dir = |name: &str| name.ends_with('/');
        let moved_is_dir = self.of.get(ino).is_some_and(|name| is_dir(name));
        let (old, new) = (self.call(*ino), shown(to, moved_is_dir));
        let mut words = match swapped {
            Some(other) => format!("exchange {old} with {}", self.call(*other)),
            None => format!("rename {old} to {new}"),
        };
        if from_dir != to_dir {
            words.push_str(&format!(" in {}", self.bare(*to_dir)));
        }
        if let Some(replaced) = replaced {
            words.push_str(&format!(", replacing #{replaced}"));
        }
        self.of.insert(*ino, new);
        if let Some(other) = swapped {
            let other_is_dir = self.of.get(other).is_some_and(|name| is_dir(name));
            self.of.insert(*other, shown(from, other_is_dir));
        }
        words
    }

    /// The name with the number.
    fn call(&self, ino: Ino) -> String {
        match self.of.get(&ino) {
            Some(name) => format!("{name} (#{ino})"),
            None => format!("#{ino}"),
        }
    }

    /// The name alone, as directories have but one.
    fn bare(&self, ino: Ino) -> String {
        self.of.get(&ino).cloned().unwrap_or_else(|| format!("#{ino}"))
    }
}

/// A name for people: what is no text is replaced, what is long has a gap, directories end in `/`.
fn shown(name: &OsStr, is_dir: bool) -> String {
    let text = name.to_string_lossy();
    let count = text.chars().count();
    let mut shown = if count <= NAME_CHARS_MAX {
        text.into_owned()
    } else {
        let head: String = text.chars().take(HEAD_CHARS).collect();
        let tail: String = text.chars().skip(count - TAIL_CHARS).collect();
        format!("{head}…{tail}")
    };
    if is_dir {
        shown.push('/');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_have_a_gap_and_directories_a_slash() {
        assert_eq!(shown("config.json".as_ref(), false), "config.json");
        assert_eq!(shown("many".as_ref(), true), "many/");
        let temp = ".steadfast-4242-1-2-boot-host-0123456789abcdef.tmp";
        assert_eq!(shown(temp.as_ref(), false), ".steadfast-4242…abcdef.tmp");
        assert_eq!(shown("ä".repeat(29).as_ref(), false).chars().count(), HEAD_CHARS + 1 + TAIL_CHARS);
    }
}

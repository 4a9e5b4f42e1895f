//! Several names that change together, in a root of our own and in a directory of others.

use super::case::Ended;
use super::case::boxed;
use super::tree::{Change, Script, Shape, Tree, TreeCase, Way};
use crate::site::FileCase;

const EVERY_WAY: &[Way] = &[Way::Fast, Way::Plain, Way::Shared];

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    boxed(SCRIPTS.into_iter().flat_map(Script::cases).collect::<Vec<TreeCase>>())
}

const LONG: &[u8] = b"more than rides in the journal";

const SCRIPTS: [Script; 3] = [
    Script::new("put", "replace a file", EVERY_WAY, &[("a", b"old")], |mut tree| tree.put("a", b"new")),
    Script::new(
        "three",
        "replace one file, create another, remove a third, together",
        EVERY_WAY,
        &[("a", b"old"), ("b", b"old")],
        |mut tree| {
            tree.commit(
                "three at once",
                &[Change::Put("a", b"new"), Change::Create("c", b"new"), Change::Remove("b")],
            )
        },
    ),
    Script {
        shape: Shape { journal_blocks: 20, window: 1 },
        ..Script::new(
            "switch",
            "put until the journal has switched its regions",
            EVERY_WAY,
            &[("a", b"old")],
            puts_until_it_switches,
        )
    },
];

fn puts_until_it_switches(mut tree: Tree<'_, '_>) -> Result<(), Ended> {
    for nth in 0..5 {
        tree.put("a", &[b'0' + nth])?;
        if nth == 2 {
            tree.put("b", LONG)?;
        }
    }
    Ok(())
}

//! Files whose content is taken anew while traffic flows.
//!
//! Who makes something of such a file says so here; the server watches for changes and has it made anew.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nuncio_filter_api::{Invalid, LowerEnv, Slots};
use tokio::sync::Notify;

/// A change that announces another content of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Trigger {
    /// The folder in which it is seen.
    pub folder: PathBuf,
    /// What must change there; `None`: anything.
    name: Option<String>,
    /// Whether a write counts as a move does.
    by_writes: bool,
}

/// Something that has changed in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The folder.
    pub folder: PathBuf,
    /// What something is called there.
    pub name: String,
    /// Whether it was written, and not moved there.
    pub is_write: bool,
}

/// What is made of a file, and made anew when the file has another content.
pub trait FollowsFile: fmt::Debug + Send + Sync {
    /// What announces that.
    fn triggers(&self) -> &[Trigger];
    /// Makes it anew where the content is another: whether it was. What was made before stays where that fails.
    fn read_again(&self, env: &LowerEnv) -> Result<bool, Vec<Invalid>>;
    /// The name of the file.
    fn path(&self) -> &str;
}

/// All that follow files; kept by each of them.
#[derive(Debug, Default)]
pub struct FollowedFiles {
    all: Mutex<Vec<Weak<dyn FollowsFile>>>,
    added: Notify,
}

// === impl Trigger ===

impl Trigger {
    /// Another file takes the place of this one.
    pub fn of_file(path: &str) -> Self {
        let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        Self { name, ..Self::in_folder_of(path) }
    }

    /// Anything is moved into the folder of this file.
    pub(crate) fn in_folder_of(path: &str) -> Self {
        let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
        Self { folder: folder.unwrap_or(Path::new(".")).to_owned(), name: None, by_writes: false }
    }

    /// Anything is moved into this folder.
    pub fn of_folder(path: &str) -> Self {
        Self { folder: path.into(), name: None, by_writes: false }
    }

    /// The same, and that is written which would have to move.
    #[must_use]
    pub fn or_write(self) -> Self {
        Self { by_writes: true, ..self }
    }

    /// Whether this change announces it.
    pub fn is_met_by(&self, change: &Change) -> bool {
        self.folder == change.folder
            && self.name.as_ref().is_none_or(|name| *name == change.name)
            && (self.by_writes || !change.is_write)
    }
}

// === impl FollowedFiles ===

impl FollowedFiles {
    /// Those of the process.
    pub fn of(slots: &Slots) -> Arc<Self> {
        slots.share("followed files", Self::default)
    }

    /// Has `follower` told of changes from now on.
    pub fn add(&self, follower: Weak<dyn FollowsFile>) {
        let mut all = self.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(follower);
        self.added.notify_one();
    }

    /// Those who still follow one.
    pub fn all(&self) -> Vec<Arc<dyn FollowsFile>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits until another is there.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// Taken when configuration is lowered and when files change, never on the data path.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn FollowsFile>>> {
        // A poisoned lock has a whole list.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_announce_another_content_and_writes_where_they_are_meant() {
        let check = |trigger: &Trigger, name: &str, moved, written| {
            let change = |is_write| Change { folder: "/a".into(), name: name.to_owned(), is_write };
            let met = [false, true].map(|is_write| trigger.is_met_by(&change(is_write)));
            assert_eq!(met, [moved, written], "{trigger:?} {name}");
        };
        check(&Trigger::of_file("/a/b"), "b", true, false);
        check(&Trigger::of_file("/a/b").or_write(), "b", true, true);
        check(&Trigger::of_file("/a/b").or_write(), "c", false, false);
        check(&Trigger::of_file("/b"), "b", false, false);
        check(&Trigger::of_folder("/a"), "c", true, false);
        check(&Trigger::of_folder("/a").or_write(), "c", true, true);
        assert_eq!(Trigger::of_file("b").folder, Path::new("."));
    }
}

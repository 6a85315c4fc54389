use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use nuncio_config::followed::Change;
use tracing::warn;

/// Bytes of events read at a time: an event has at most 272.
const BUFFER: usize = 4096;

/// A file that is written is whole when it is closed.
const CHANGES: WatchMask = WatchMask::MOVED_TO.union(WatchMask::CLOSE_WRITE).union(WatchMask::ONLYDIR);

/// Tells of files that are moved into folders, or written there.
pub(crate) struct Watch {
    events: EventStream<[u8; BUFFER]>,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
    /// Those that cannot be watched, which was said once.
    missing: BTreeSet<PathBuf>,
}

// === impl Watch ===

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        let events = Inotify::init()?.into_event_stream([0; BUFFER])?;
        Ok(Self { events, folders: BTreeMap::new(), missing: BTreeSet::new() })
    }

    /// Watches these folders and no others.
    pub(crate) fn reconcile<'a>(&mut self, wanted: impl Iterator<Item = &'a Path>) {
        let wanted: BTreeSet<&Path> = wanted.collect();
        let gone: Vec<_> = self.folders.keys().filter(|folder| !wanted.contains(&***folder)).cloned().collect();
        for folder in gone {
            if let Some(descriptor) = self.folders.remove(&folder) {
                // Fails only where the folder itself is gone.
                let _ = self.events.watches().remove(descriptor);
            }
        }
        self.missing.retain(|folder| wanted.contains(&**folder));
        for folder in wanted {
            if self.folders.contains_key(folder) || self.missing.contains(folder) {
                continue;
            }
            match self.events.watches().add(folder, CHANGES) {
                Ok(descriptor) => drop(self.folders.insert(folder.to_owned(), descriptor)),
                Err(error) => {
                    warn!(target: "file", folder = %folder.display(), %error, "folder cannot be watched");
                    self.missing.insert(folder.to_owned());
                }
            }
        }
    }

    /// The next change.
    pub(crate) async fn next(&mut self) -> Change {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    let folder = self.folders.iter().find(|(_, descriptor)| **descriptor == event.wd);
                    if let (Some((folder, _)), Some(name)) = (folder, event.name) {
                        let is_write = event.mask.contains(EventMask::CLOSE_WRITE);
                        let name = name.to_string_lossy().into_owned();
                        return Change { folder: folder.clone(), name, is_write };
                    }
                }
                Some(Err(error)) => {
                    warn!(target: "file", %error, "moves of files cannot be read");
                    std::future::pending::<()>().await;
                }
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_changes_in_a_watched_folder_is_told_and_how() {
        let folder = std::env::temp_dir().join(format!("nuncio-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.reconcile([&*folder].into_iter());
        std::fs::write(folder.join("written"), "x").unwrap();
        std::fs::rename(folder.join("written"), folder.join("moved")).unwrap();
        let written = Change { folder: folder.clone(), name: "written".to_owned(), is_write: true };
        assert_eq!(watch.next().await, written);
        let moved = Change { folder: folder.clone(), name: "moved".to_owned(), is_write: false };
        assert_eq!(watch.next().await, moved);
        watch.reconcile(std::iter::empty());
        assert!(watch.folders.is_empty());
        std::fs::remove_dir_all(folder).unwrap();
    }
}

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};
use tracing::warn;

/// Bytes of events read at a time: an event has at most 272.
const BUFFER: usize = 4096;

/// Tells of files that are moved into folders.
pub(crate) struct Watch {
    events: EventStream<[u8; BUFFER]>,
    kind: WatchMask,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
    /// Those that cannot be watched, which was said once.
    missing: BTreeSet<PathBuf>,
}

// === impl Watch ===

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        Self::of(WatchMask::MOVED_TO)
    }

    /// Tells of files that were written, too.
    pub(crate) fn of_writes_too() -> io::Result<Self> {
        Self::of(WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE)
    }

    fn of(kind: WatchMask) -> io::Result<Self> {
        let events = Inotify::init()?.into_event_stream([0; BUFFER])?;
        Ok(Self { events, kind, folders: BTreeMap::new(), missing: BTreeSet::new() })
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
            match self.events.watches().add(folder, self.kind | WatchMask::ONLYDIR) {
                Ok(descriptor) => drop(self.folders.insert(folder.to_owned(), descriptor)),
                Err(error) => {
                    warn!(target: "file", folder = %folder.display(), %error, "folder cannot be watched");
                    self.missing.insert(folder.to_owned());
                }
            }
        }
    }

    /// The next move: the folder, and the name that something has there now.
    pub(crate) async fn next(&mut self) -> (PathBuf, String) {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    let folder = self.folders.iter().find(|(_, descriptor)| **descriptor == event.wd);
                    if let (Some((folder, _)), Some(name)) = (folder, event.name) {
                        return (folder.clone(), name.to_string_lossy().into_owned());
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
    async fn a_move_into_a_watched_folder_is_told_and_a_write_is_not() {
        let folder = std::env::temp_dir().join(format!("nuncio-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.reconcile([&*folder].into_iter());
        std::fs::write(folder.join("written"), "x").unwrap();
        std::fs::rename(folder.join("written"), folder.join("moved")).unwrap();
        assert_eq!(watch.next().await, (folder.clone(), "moved".to_owned()));
        watch.reconcile(std::iter::empty());
        assert!(watch.folders.is_empty());
        std::fs::remove_dir_all(folder).unwrap();
    }
}

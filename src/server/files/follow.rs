//! Files that parts of the configuration follow.

use std::sync::Arc;

use nuncio_config::followed::{Change, FollowedFiles, FollowsFile};
use nuncio_filter_api::LowerEnv;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::Watch;
use crate::update::details;

/// Has all that follow files made anew when those change, until it is dropped.
pub(crate) async fn follow_contents(env: Arc<LowerEnv>) {
    let files = FollowedFiles::of(&env.slots);
    let mut watch = match Watch::new() {
        Ok(watch) => watch,
        Err(error) => return warn!(target: "file", %error, "files cannot be watched: they are read once"),
    };
    loop {
        let all = files.all();
        watch.reconcile(all.iter().flat_map(|one| one.triggers()).map(|trigger| &*trigger.folder));
        // What has changed since they read it, and before it was watched, told nobody.
        read_again(all, &env).await;
        loop {
            tokio::select! {
                () = files.added() => break,
                change = watch.next() => read_again(concerned(&files, &change), &env).await,
            }
        }
    }
}

fn concerned(files: &FollowedFiles, change: &Change) -> Vec<Arc<dyn FollowsFile>> {
    let mut all = files.all();
    all.retain(|one| one.triggers().iter().any(|trigger| trigger.is_met_by(change)));
    all
}

async fn read_again(followers: Vec<Arc<dyn FollowsFile>>, env: &Arc<LowerEnv>) {
    for one in followers {
        let (path, env) = (one.path().to_owned(), env.clone());
        // The process's hook has logged a panic.
        match spawn_blocking(move || one.read_again(&env)).await {
            Ok(Ok(true)) => info!(target: "config", path, "its content was taken anew"),
            Ok(Err(reasons)) => {
                error!(target: "config", "Failed to transform data from file '{path}': {}", details(&reasons));
            }
            Ok(Ok(false)) | Err(_) => {}
        }
    }
}

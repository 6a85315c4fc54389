//! The runtime from files: a tree that takes the place of another is in force.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::support::bootstrap::Pieces;
use crate::support::client::get;
use crate::support::proxy::{Running, proxy};

const ROUTES: &str = "- match: { prefix: /, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: r.on } }
  direct_response: { status: 201 }
- match: { prefix: / }
  direct_response: { status: 202 }
";

fn write(folder: &Path, file: &str, content: &str) {
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folders can be made");
    std::fs::write(path, content).expect("files can be written");
}

async fn wait_for_status(proxy: &Running, wanted: u16) {
    for _ in 0..500 {
        if get(proxy.addr(), "/").await.expect("an answer").status() == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no {wanted} came\n{}", proxy.log());
}

#[tokio::test]
async fn a_tree_of_files_that_is_swapped_is_in_force_and_a_broken_one_counted() {
    let root = std::env::temp_dir().join(format!("nuncio-runtime-swap-{}", std::process::id()));
    write(&root, "v1/base/r/on", "0\n");
    write(&root, "v1/over/mine/r/on", "# for this service\n{ numerator: 1000000, denominator: MILLION }\n");
    write(&root, "v2/base/r/on", "0\n");
    write(&root, "v3/base/r/on", "x: [");
    symlink("v1", root.join("current")).expect("links can be made");
    let link = root.join("current").display().to_string();
    let bootstrap = format!(
        "node: {{ id: i, cluster: mine }}\nlayered_runtime:\n  layers:\n  - name: base\n    \
         disk_layer: {{ symlink_root: {link}, subdirectory: base }}\n  - name: over\n    \
         disk_layer: {{ symlink_root: {link}, subdirectory: over, append_service_cluster: true }}\n"
    );
    let pieces = Pieces { bootstrap, routes: ROUTES.to_owned(), ..Pieces::default() };
    // No request gets there.
    let proxy = proxy(pieces.yaml().replace("$UPSTREAM", "1")).run().await;
    wait_for_status(&proxy, 201).await;
    assert!(proxy.admin("/runtime").await.contains("1000000"));
    assert_eq!(proxy.stat("runtime.override_dir_exists").await, 2);
    let swap = |to: &str| {
        symlink(to, root.join("next")).expect("links can be made");
        std::fs::rename(root.join("next"), root.join("current")).expect("links can be moved");
    };
    swap("v2");
    wait_for_status(&proxy, 202).await;
    // As in Envoy each layer asks for a load of its own.
    proxy.wait_for_stat("runtime.load_success", 4).await;
    swap("v3");
    proxy.wait_for_stat("runtime.load_error", 2).await;
    assert_eq!(proxy.stat("runtime.num_layers").await, 0);
    std::fs::remove_dir_all(root).expect("what was made can be removed");
}

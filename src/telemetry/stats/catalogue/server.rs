//! The process as a whole.

crate::stats! {
    /// `server`
    pub struct ServerStats {
        /// Number of workers.
        concurrency: Gauge,
        /// 1 while the server is live and not draining.
        live: Gauge,
        /// 0 live, 1 draining, 2 before initialising, 3 initialising.
        state: Gauge,
        /// Seconds since the start.
        uptime: Gauge,
        /// Milliseconds from the start until the workers take connections.
        initialization_time_ms: Histogram(Milliseconds),
        /// Open downstream connections, this process and the one it took over from together.
        total_connections: Gauge,
        /// Connections still held by the process that this one takes over from.
        parent_connections: Gauge,
        /// Times that the server was restarted hot.
        hot_restart_epoch: Gauge,
        /// A number for the build.
        version: Gauge,
        /// Bytes in use.
        memory_allocated: Gauge,
        /// Bytes that the allocator has reserved.
        memory_heap_size: Gauge,
        /// Bytes resident.
        memory_physical_size: Gauge,
        /// 4294967295 where there is no certificate.
        days_until_first_cert_expiring: Gauge,
        /// 0 where there is no OCSP response.
        seconds_until_first_ocsp_response_expiring: Gauge,
        /// 1 if the cryptography is certified for FIPS 140.
        fips_mode: Gauge = "compilation_settings.fips_mode",
        /// Unknown fields in the bootstrap that were let pass.
        static_unknown_fields: Counter,
        /// Unknown fields in xDS that were let pass.
        dynamic_unknown_fields: Counter,
        /// Uses of messages that are marked as work in progress.
        wip_protos: Counter,
        /// Flushes of the stats that were skipped since the one before had not ended.
        dropped_stat_flushes: Counter,
        /// How many processes have taken over from each other, this one included.
        hot_restart_generation: Gauge,
        /// Faults of the program that it noticed and survived: here, panics.
        envoy_bug_failures: Counter,
        /// Checks of the program's own state that failed; a release has none.
        debug_assertion_failures: Counter,
        envoy_notifications: Counter,
        /// Ours: panics that ended a stream, a connection or a task, and nothing else.
        panics: Counter,
        /// Ours: workers started again after they died.
        worker_restarts: Counter,
        /// Ours: times that the bootstrap was read again and taken over.
        config_reload_success: Counter,
        /// Ours: times that it was read again and refused.
        config_reload_failure: Counter,
    }

    /// `server.<thread>`, `main_thread` and `workers`: times that a thread did not come back to its event loop.
    pub struct WatchdogStats {
        watchdog_miss: Counter,
        watchdog_mega_miss: Counter,
    }

    /// `listener_manager`
    pub struct ListenerManagerStats {
        listener_added: Counter,
        listener_modified: Counter,
        listener_removed: Counter,
        listener_stopped: Counter,
        /// Once for each worker.
        listener_create_success: Counter,
        /// Once for each worker.
        listener_create_failure: Counter,
        /// Updates that touched filter chains only, and so kept the listener.
        listener_in_place_updated: Counter,
        total_filter_chains_draining: Gauge,
        total_listeners_active: Gauge,
        total_listeners_draining: Gauge,
        total_listeners_warming: Gauge,
        /// 1 once all workers run.
        workers_started: Gauge,
        /// 1 if each worker is bound to a CPU.
        workers_pinned: Gauge,
    }

    /// `runtime`: no key is read yet, so most of it stays zero.
    pub struct RuntimeStats {
        load_success: Counter,
        load_error: Counter,
        deprecated_feature_use: Counter,
        override_dir_exists: Counter,
        override_dir_not_exists: Counter,
        num_keys: Gauge,
        num_layers: Gauge,
        admin_overrides_active: Gauge,
        deprecated_feature_seen_since_process_start: Gauge,
    }

    /// `cluster_manager`
    pub struct ClusterManagerStats {
        cluster_added: Counter,
        cluster_modified: Counter,
        cluster_removed: Counter,
        cluster_updated: Counter,
        cluster_updated_via_merge: Counter,
        update_merge_cancelled: Counter,
        update_out_of_merge_window: Counter,
        active_clusters: Gauge,
        warming_clusters: Gauge,
    }

    /// `dns.cares`: questions to name servers, each for one name and one family of addresses.
    pub struct CaresStats {
        resolve_total: Counter,
        /// The name is not there, or has no address of the family.
        not_found: Counter,
        /// Of questions that no server answered in time: how often one did not.
        timeouts: Counter,
        get_addr_failure: Counter,
        /// No state is kept between questions that could be made anew.
        reinits: Counter,
        pending_resolutions: Gauge,
    }

    /// What is counted of every resource, or list of resources, that discovery gives: `cluster_manager.cds`,
    /// `listener_manager.lds`, `http.<prefix>.rds.<name>`.
    pub struct SubscriptionStats {
        init_fetch_timeout: Counter,
        update_attempt: Counter,
        update_success: Counter,
        /// It could not be got, or is not what it should be at all.
        update_failure: Counter,
        /// It was got, and refused.
        update_rejected: Counter,
        /// When it was accepted last, in milliseconds of the Unix epoch.
        update_time: Gauge,
        /// Milliseconds that taking it over took.
        update_duration: Histogram(Milliseconds),
        /// A hash of the version accepted last.
        version: Gauge,
    }

    /// The same of a cluster's endpoints, beside what is counted of every cluster.
    pub struct EndpointSubscriptionStats {
        init_fetch_timeout: Counter,
        update_rejected: Counter,
        update_time: Gauge,
        update_duration: Histogram(Milliseconds),
    }

    /// Beside `SubscriptionStats` of clusters and routes.
    pub struct ReloadStats {
        config_reload: Counter,
        config_reload_time_ms: Gauge,
    }

    /// Beside `SubscriptionStats` of the configurations of filters.
    pub struct ExtensionStats {
        config_reload: Counter,
        config_fail: Counter,
        /// One that is there is not for a filter that asks for it later.
        config_conflict: Counter,
    }

    /// Beside `SubscriptionStats` of secrets.
    pub struct SecretStats {
        /// Files that a secret names had another content, which could not be used.
        key_rotation_failed: Counter,
    }

    /// Beside `SubscriptionStats` of routes.
    pub struct RouteSubscriptionStats {
        update_empty: Counter,
    }

    /// `filesystem`: what the writers of log files did.
    pub struct FilesystemStats {
        /// Pieces handed to a writer.
        write_buffered: Counter,
        /// Writes that ended.
        write_completed: Counter,
        /// Writes that the kernel refused.
        write_failed: Counter,
        /// Buffers written out because the flush interval had passed.
        flushed_by_timer: Counter,
        reopen_failed: Counter,
        /// Bytes waiting for a writer.
        write_total_buffered: Gauge,
        /// Ours: pieces dropped since the buffer of their file was full.
        write_dropped: Counter,
    }
}

"""The protocols of systemd: sd_notify(3) and sd_listen_fds(3)."""

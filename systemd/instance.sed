# graced@.service out of graced.service: %N names the directories, the pidfile and the log in both.
s/^# graced\.service: .*/# graced@.service: further services; graced@NAME has \/etc\/graced\/NAME.toml and NAME.d\/*.toml./
s/`systemctl edit graced`/`systemctl edit graced@NAME`/
/^# For port 7/,/socket-activated/d
s/^Description=.*/Description=graced service %i/
s/^ExecStart=.*/& --instance %i/
s/^ExecReload=.*gracectl/& --instance %i/

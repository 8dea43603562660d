# graced-metrics@.service and .timer out of those without an @, for the instance graced@NAME.
s/^# graced-metrics\.\(timer\|service\): /# graced-metrics@.\1: of an instance: /
s/graced-metrics\.\(timer\|service\)\([,.]\| twice\|$\)/graced-metrics@NAME.\1\2/
s/^Description=.*/& (%i)/
s|/usr/bin/gracectl|& --instance %i|
s|graced\.prom|graced@%i.prom|

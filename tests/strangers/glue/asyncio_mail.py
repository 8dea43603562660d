from functools import partial

from aiosmtpd.smtp import SMTP

from strangers.apps.mailbox import Mailbox

Handler = partial(SMTP, Mailbox(), hostname="mail.example")

"""Runs over HTTP: started, streamed and stopped from anywhere. Needs the extra `server`."""

from ..checks import needs_extra as _needs_extra

with _needs_extra("server"):
    from .app import create_app as create_app
    from .app import mount as mount
    from .auth import ApiKey as ApiKey
    from .auth import ApiKeys as ApiKeys
    from .auth import Authenticator as Authenticator
    from .auth import Caller as Caller
    from .auth import Jwt as Jwt
    from .gate import Caps as Caps
    from .service import Settings as Settings
    from .serving import serve as serve

"""The module that requests-kerberos asks for, over python3-gssapi, which is MIT's library as it is. Debian's
python3-kerberos lacks the calls that seal messages of WinRM, and channel bindings."""
import base64

import gssapi
from gssapi.raw import ChannelBindings, GSSError, IOV, IOVBufferType, unwrap_iov, wrap_iov

GSS_C_DELEG_FLAG, GSS_C_MUTUAL_FLAG, GSS_C_SEQUENCE_FLAG = 1, 2, 8
AUTH_GSS_CONTINUE, AUTH_GSS_COMPLETE = 0, 1
gssapi.SecurityContext.__DEFER_STEP_ERRORS__ = False


class _State:
    context = response = None


def channelBindings(application_data):
    return ChannelBindings(application_data=application_data)


def authGSSClientInit(service, gssflags, principal=None):
    s = _State()
    s.name, s.flags = gssapi.Name(service, gssapi.NameType.hostbased_service), gssflags
    return AUTH_GSS_COMPLETE, s


def authGSSClientStep(s, challenge, channel_bindings=None):
    if s.context is None:
        s.context = gssapi.SecurityContext(name=s.name, flags=s.flags, mech=gssapi.MechType.kerberos, usage="initiate",
                                           channel_bindings=channel_bindings)
    token = s.context.step(base64.b64decode(challenge) or None)
    s.response = base64.b64encode(token).decode() if token else None
    return AUTH_GSS_COMPLETE if s.context.complete else AUTH_GSS_CONTINUE


def authGSSClientResponse(s):
    return s.response


def authGSSWinRMEncryptMessage(s, message):
    if isinstance(message, str):
        message = message.encode()
    iov = IOV(IOVBufferType.header, (IOVBufferType.data, False, message), IOVBufferType.padding, std_layout=False)
    wrap_iov(s.context, iov, confidential=True)
    return iov[1].value + (iov[2].value or b""), iov[0].value


def authGSSWinRMDecryptMessage(s, message, header):
    iov = IOV((IOVBufferType.header, False, header), (IOVBufferType.data, False, message), std_layout=False)
    if not unwrap_iov(s.context, iov).encrypted:
        raise ValueError("the message is not encrypted")
    return iov[1].value

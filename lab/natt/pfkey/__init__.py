"""PF_KEYv2 (RFC 2367 and the KAME additions): codec, server core, UNIX socket transport."""

"""A certificate authority of this run alone, made with openssl."""

import pathlib
import subprocess


class Authority:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.ca, self.key = self.directory / "ca.pem", self.directory / "ca.key"
        self.openssl("req", "-x509", *KEY, "-nodes", "-keyout", self.key, "-out", self.ca, "-days", "2", "-subj", "/CN=peers")

    def openssl(self, *words):
        done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"openssl {words[0]} fails:\n{done.stderr}")

    def sign(self, name):
        """Certificate and key for 127.0.0.1 and localhost, and both in one file, as some programs want them."""
        chain, key, both = (self.directory / f"{name}.{kind}" for kind in ("pem", "key", "both"))
        request, names = self.directory / f"{name}.csr", self.directory / f"{name}.names"
        names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
        self.openssl("req", *KEY, "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        self.openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key, "-CAcreateserial"),
            *("-out", chain, "-days", "2", "-extfile", names),
        )
        both.write_text(chain.read_text() + key.read_text())
        return chain, key, both

    def lines(self, name):
        """[sip.tls] of a server that shows a certificate, and asks for one of this authority on both sides."""
        chain, key, _ = self.sign(name)
        return f'certificate = "{chain}"\nkey = "{key}"\nca = "{self.ca}"\nclient_ca = "{self.ca}"'


KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")

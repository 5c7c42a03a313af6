// A SAML identity provider on loopback: `samlp` as its users run it, with somebody who is logged in already.
//
//     node idp.cjs KEY.pem CERTIFICATE.pem [SETTINGS.json]
//
// Prints its URL. GET /metadata, GET and POST /sso. The settings are read at each login, so that a test can change them: `user`, and whatever
// samlp takes; `signingCert` has it check the signatures of requests, `unsolicited` has it answer none.
const fs = require('fs');
const http = require('http');
const samlp = require('samlp');

const [key, cert] = process.argv.slice(2, 4).map((file) => fs.readFileSync(file, 'utf8'));
const settingsFile = process.argv[4];
const GROUPS = 'http://schemas.xmlsoap.org/claims/Group';

function profile(user) {
  return {
    getClaims: () => ({ [GROUPS]: user.groups, uid: user.id }),
    getNameIdentifier: () => ({ nameIdentifier: user.id, nameIdentifierFormat: user.format }),
  };
}
profile.prototype.metadata = [{ id: GROUPS, displayName: 'Groups' }];

function express(request, response) {
  response.set = (name, value) => response.setHeader(name, value);
  response.send = (status, text) => {
    if (typeof status === 'number') response.statusCode = status;
    response.end(String(text === undefined ? status : text));
  };
  return (error) => {
    response.statusCode = 400;
    response.end(`refused: ${error && error.message}`);
  };
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    request.originalUrl = request.url;
    request.protocol = 'http';
    request.query = Object.fromEntries(url.searchParams);
    request.body = Object.fromEntries(new URLSearchParams(Buffer.concat(chunks).toString()));
    const next = express(request, response);
    const issuer = 'urn:postern:test:idp';
    if (url.pathname === '/metadata') {
      return samlp.metadata({ issuer, cert, profileMapper: profile, redirectEndpointPath: '/sso', postEndpointPath: '/sso' })(request, response);
    }
    const { user, unsolicited, ...settings } = settingsFile ? JSON.parse(fs.readFileSync(settingsFile, 'utf8')) : {};
    const who = { id: 'alice@example.test', groups: ['dev', 'ops'], format: 'urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress', ...user };
    // Where the answer goes is what the request says: the service provider is who must not believe what is not for it.
    samlp.parseRequest(request, {}, (error, asked) => {
      if (error || !asked) return next(error || new Error('no request'));
      const acs = settings.acs || asked.assertionConsumerServiceURL;
      if (unsolicited) {
        // As when the login begins here: samlp is not shown the request.
        settings.audience = settings.audience || asked.issuer;
        delete request.query.SAMLRequest;
        delete request.body.SAMLRequest;
      }
      samlp.auth({
        issuer, key, cert, profileMapper: profile, getUserFromRequest: () => who, recipient: acs, destination: acs, lifetimeInSeconds: 300,
        getPostURL: (_audience, _request, _http, done) => done(null, acs), ...settings,
      })(request, response, next);
    });
  });
});
server.listen(Number(process.env.PORT || 0), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));

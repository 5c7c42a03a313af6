// What a client library off the shelf does with OAuth's endpoints and proofs of possession (RFC 9449), and what a thief tries.
// Arguments: the issuer, a subject token, the token of somebody who may ask about tokens. Prints tokens for gateways as JSON.

import assert from 'node:assert/strict'
import { createHash, randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const library = createRequire(`${process.env.NODE_PATH}/`).resolve('oauth4webapi')
const oauth = await import(pathToFileURL(library))
const [issuer, subject, reader] = process.argv.slice(2)
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const JWT = 'urn:ietf:params:oauth:token-type:jwt'

const url = new URL(issuer)
const as = await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, { algorithm: 'oauth2' }))
assert.ok(as.dpop_signing_alg_values_supported.includes('ES256'), 'metadata')
const client = { client_id: 'ci' }

const b64 = (bytes) => Buffer.from(bytes).toString('base64url')
const sha256 = (text) => createHash('sha256').update(text).digest('base64url')

async function holder(algorithm) {
  const keys = await oauth.generateKeyPair(algorithm)
  const { kty, crv, x, y } = await crypto.subtle.exportKey('jwk', keys.publicKey)
  const jwk = y ? { crv, kty, x, y } : { crv, kty, x }
  return { algorithm, keys, jwk, jkt: sha256(JSON.stringify(jwk)), dpop: oauth.DPoP(client, keys) }
}

// As the library has it: whatever nonces are demanded it learns and repeats.
async function asks(request) {
  try {
    return await request()
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error
    return await request()
  }
}

const exchange = (token, by, more = {}) =>
  asks(async () => {
    const fields = { subject_token: token, subject_token_type: JWT, ...more }
    const options = { DPoP: by.dpop }
    const answer = await oauth.genericTokenEndpointRequest(as, client, oauth.None(), EXCHANGE, fields, options)
    return await oauth.processGenericTokenEndpointResponse(as, client, answer)
  })

const own = await holder('ES256')
const other = await holder('Ed25519')
const bound = await exchange(subject, own)
assert.equal(bound.token_type, 'dpop')
const asker = await exchange(reader, own)

// A resource: who asks shows a token that is bound, and asks about another.
const worth = (token) =>
  asks(async () => {
    const target = new URL(as.introspection_endpoint)
    const headers = new Headers({ 'content-type': 'application/x-www-form-urlencoded' })
    const body = new URLSearchParams({ token })
    const options = { DPoP: own.dpop }
    const answer = await oauth.protectedResourceRequest(asker.access_token, 'POST', target, headers, body, options)
    return await answer.json()
  })
const told = await worth(bound.access_token)
assert.deepEqual([told.active, told.token_type, told.cnf], [true, 'DPoP', { jkt: own.jkt }])

// A child keeps the binding; or is bound to another key, or to a certificate, by a proof of the parent's.
const child = await exchange(bound.access_token, own, { actor: 'child' })
assert.deepEqual((await worth(child.access_token)).cnf, { jkt: own.jkt })
const handed = await exchange(bound.access_token, own, { dpop_jkt: other.jkt })
assert.deepEqual((await worth(handed.access_token)).cnf, { jkt: other.jkt })
const grandchild = await exchange(handed.access_token, other)
assert.deepEqual((await worth(grandchild.access_token)).cnf, { jkt: other.jkt })
const thumbprint = process.env.CERTIFICATE
const certified = await exchange(bound.access_token, own, { certificate_sha256: thumbprint })
assert.deepEqual((await worth(certified.access_token)).cnf, { 'x5t#S256': thumbprint })

// A job of a bound token is heard of by proofs.
const job = await exchange(bound.access_token, own, { job: 'build', job_heartbeat: '60' })
const heartbeat = `${issuer}/oauth/heartbeat`

// And a thief, who has tokens and what was shown, and no key.
let nonce
async function proof(by, claims, header = {}) {
  const all = { jti: randomUUID(), htm: 'POST', iat: Math.floor(Date.now() / 1000), ...(nonce && { nonce }), ...claims }
  const alg = by.algorithm === 'Ed25519' ? 'EdDSA' : by.algorithm
  const signed = `${b64(JSON.stringify({ typ: 'dpop+jwt', alg, jwk: by.jwk, ...header }))}.${b64(JSON.stringify(all))}`
  const algorithm = by.algorithm === 'Ed25519' ? 'Ed25519' : { name: 'ECDSA', hash: 'SHA-256' }
  return `${signed}.${b64(await crypto.subtle.sign(algorithm, by.keys.privateKey, Buffer.from(signed)))}`
}
async function post(target, fields, headers) {
  const answer = await fetch(target, { method: 'POST', headers, body: new URLSearchParams(fields) })
  const { error } = await answer.json()
  nonce = answer.headers.get('dpop-nonce') ?? nonce
  return [answer.status, error, answer.headers.get('www-authenticate')]
}
const token = as.token_endpoint
const ask = (shown, dpop, more = {}) => {
  const fields = { grant_type: EXCHANGE, subject_token: shown, subject_token_type: JWT, ...more }
  return post(token, fields, dpop === undefined ? {} : { dpop })
}
if (process.env.NONCES) {
  const [status, error] = await ask(bound.access_token, await proof(own, { htu: token }))
  assert.deepEqual([status, error], [400, 'use_dpop_nonce'])
  assert.ok(nonce)
}
const good = await proof(own, { htu: token })
assert.deepEqual((await ask(bound.access_token, good)).slice(0, 2), [200, undefined])
const now = Math.floor(Date.now() / 1000)
for (const [why, dpop] of [
  ['replayed', good],
  ['another method', await proof(own, { htu: token, htm: 'GET' })],
  ['another URL', await proof(own, { htu: as.introspection_endpoint })],
  ['another server', await proof(own, { htu: 'https://elsewhere.example/oauth/token' })],
  ['stale', await proof(own, { htu: token, iat: now - 90 })],
  ['of the future', await proof(own, { htu: token, iat: now + 90 })],
  ['of another token', await proof(own, { htu: token, ath: sha256('another') })],
  ["another's key", await proof(other, { htu: token }, { jwk: own.jwk })],
  ['no type', await proof(own, { htu: token }, { typ: 'JWT' })],
  ['a private key', await proof(own, { htu: token }, { jwk: { ...own.jwk, d: own.jwk.x } })],
  ['none', 'x.y.z'],
]) {
  assert.deepEqual((await ask(bound.access_token, dpop)).slice(0, 2), [400, 'invalid_dpop_proof'], why)
}
assert.deepEqual((await ask(bound.access_token)).slice(0, 2), [400, 'invalid_request'], 'stripped')
for (const more of [{}, { dpop_jkt: other.jkt }, { certificate_sha256: thumbprint }]) {
  const foreign = await proof(other, { htu: token })
  assert.deepEqual((await ask(bound.access_token, foreign, more)).slice(0, 2), [400, 'invalid_request'], 'a key of their own')
}
const beat = async (by) => {
  const headers = by && { dpop: await proof(by, { htu: heartbeat }) }
  return (await post(heartbeat, { token: job.access_token }, headers)).slice(0, 2)
}
assert.deepEqual(await beat(), [400, 'invalid_request'])
assert.deepEqual(await beat(other), [400, 'invalid_request'])
assert.deepEqual(await beat(own), [200, undefined])
const actor = { actor_token: bound.access_token, actor_token_type: JWT }
assert.deepEqual((await ask(subject, undefined, actor)).slice(0, 2), [400, 'invalid_request'], 'as an actor')

const about = async (authorization, dpop) => {
  const [status, error, challenge] = await post(
    as.introspection_endpoint,
    { token: bound.access_token },
    { ...(authorization && { authorization }), ...(dpop && { dpop }) },
  )
  assert.equal(status, 401, challenge)
  return [error, challenge.split(' ')[0]]
}
const ath = sha256(asker.access_token)
const here = { htu: as.introspection_endpoint, ath }
const shown = asker.access_token
assert.deepEqual(await about(undefined), ['invalid_client', 'Bearer'])
assert.deepEqual(await about(`Bearer ${shown}`), ['invalid_token', 'Bearer'])
assert.deepEqual(await about(`Bearer ${shown}`, await proof(own, here)), ['invalid_token', 'DPoP'])
assert.deepEqual(await about(`DPoP ${shown}`), ['invalid_token', 'Bearer'])
assert.deepEqual(await about(`DPoP ${shown}`, await proof(other, here)), ['invalid_token', 'DPoP'])
assert.deepEqual(await about(`DPoP ${reader}`, await proof(own, here)), ['invalid_token', 'DPoP'])
assert.deepEqual(await about(`DPoP ${shown}`, await proof(own, { ...here, ath: undefined })), ['invalid_dpop_proof', 'DPoP'])
assert.deepEqual(await about(`DPoP ${shown}`, await proof(own, { ...here, ath: sha256('x') })), ['invalid_dpop_proof', 'DPoP'])
assert.deepEqual(await about(`DPoP ${shown}`, await proof(own, { ...here, htu: token })), ['invalid_dpop_proof', 'DPoP'])

console.log(JSON.stringify({ bound: bound.access_token, certified: certified.access_token }))

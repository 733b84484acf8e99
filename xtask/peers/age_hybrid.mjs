// age_hybrid.mjs: prints a new post-quantum identity and its recipient.
// age_hybrid.mjs BUNDLE IDENTITY…: opens the bundle's post-quantum key file with each identity, then writes it anew for them,
// with `keys/mac` as docs/spec/bundle.md has it, so that the bundle must still open.
import { Decrypter, Encrypter, generateHybridIdentity, identityToRecipient } from "age-encryption";
import { createHmac } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

const [bundle, ...identities] = process.argv.slice(2);
if (!bundle) {
  const identity = await generateHybridIdentity();
  console.log(identity);
  console.log(await identityToRecipient(identity));
  process.exit(0);
}
const file = `${bundle}/keys/mlkem768x25519.age`;
let key;
for (const identity of identities) {
  const decrypter = new Decrypter();
  decrypter.addIdentity(identity);
  key = await decrypter.decrypt(readFileSync(file), "uint8array");
  if (key.length !== 32) throw new Error(`the content key has ${key.length} bytes`);
}
const encrypter = new Encrypter();
for (const identity of identities) encrypter.addRecipient(await identityToRecipient(identity));
writeFileSync(file, await encrypter.encrypt(key));

const hmac = (key, ...parts) => parts.reduce((h, part) => h.update(part), createHmac("sha384", key)).digest().subarray(0, 32);
const length = (bytes) => {
  const out = Buffer.alloc(8);
  out.writeBigUInt64BE(BigInt(bytes.length));
  return out;
};
const id = Buffer.from(readFileSync(`${bundle}/coffer.bundle`, "latin1").split("id ")[1].trim(), "hex");
const parts = [id];
for (const name of readdirSync(`${bundle}/keys`).filter((name) => name !== "mac").sort()) {
  const bytes = readFileSync(`${bundle}/keys/${name}`);
  parts.push(length(Buffer.from(name)), Buffer.from(name), length(bytes), bytes);
}
writeFileSync(`${bundle}/keys/mac`, hmac(hmac(key, "coffer-bundle 1 keys\x01"), ...parts));
console.log(`age-encryption opens our post-quantum key file with ${identities.length} identities, and we open the one it writes`);
